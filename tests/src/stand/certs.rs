//! Certificates of a stand's cluster, made anew at each start.
//!
//! Called by `kubernetes` before its servers start. Everything is made by the `openssl` program with elliptic
//! keys, which takes milliseconds. Invariant: keys never leave the stand's state folder.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::process::Command;

use super::layout::Site;
use super::process;

/// Without this, openssl's own file would make every certificate one of an authority.
const CONFIG: &str = "[req]\ndistinguished_name=dn\nprompt=no\n[dn]\n[ca]\nbasicConstraints=critical,CA:TRUE\n\
    keyUsage=critical,keyCertSign,cRLSign,digitalSignature\nsubjectKeyIdentifier=hash\n\
    [leaf]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature,keyEncipherment\n\
    extendedKeyUsage=serverAuth,clientAuth\n";

/// The folder with an authority and what it signed.
pub(super) struct Certs<'s> {
    site: &'s Site,
    dir: PathBuf,
}

impl<'s> Certs<'s> {
    /// The folder of a stand that has made its certificates.
    #[must_use]
    pub(super) fn of(site: &'s Site) -> Self {
        Self {
            site,
            dir: site.dir.join("certs"),
        }
    }

    /// Makes the authority.
    ///
    /// # Errors
    /// When openssl is missing or refuses.
    pub(super) async fn make(site: &'s Site) -> Result<Self> {
        let dir = site.folder("certs")?;
        fs::write(dir.join("openssl.cnf"), CONFIG)?;
        let certs = Self { site, dir };
        certs
            .request("ca", "/CN=stand", &["-extensions", "ca"])
            .await?;
        Ok(certs)
    }

    /// Path of a file in the folder.
    #[must_use]
    pub(super) fn path(&self, file: &str) -> String {
        self.dir.join(file).display().to_string()
    }

    /// Signs a certificate for `subject`, written to `NAME.crt` and `NAME.key`.
    ///
    /// # Errors
    /// When openssl refuses.
    pub(super) async fn sign(&self, name: &str, subject: &str, names: &str) -> Result<()> {
        let names = format!("subjectAltName={names}");
        let ca = self.path("ca.crt");
        let key = self.path("ca.key");
        let more = [
            "-CA",
            &ca,
            "-CAkey",
            &key,
            "-extensions",
            "leaf",
            "-addext",
            &names,
        ];
        self.request(name, subject, &more).await
    }

    async fn request(&self, name: &str, subject: &str, more: &[&str]) -> Result<()> {
        let mut command = self.openssl();
        command
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args([
                "-days",
                "30",
                "-config",
                &self.path("openssl.cnf"),
                "-subj",
                subject,
            ])
            .args(["-keyout", &self.path(&format!("{name}.key"))])
            .args(["-out", &self.path(&format!("{name}.crt"))])
            .args(more);
        process::run(&mut command)
            .await
            .with_context(|| format!("making the certificate of {name}"))?;
        Ok(())
    }

    /// Makes the key pair that signs service account tokens.
    ///
    /// # Errors
    /// When openssl refuses.
    pub(super) async fn service_accounts(&self) -> Result<()> {
        let key = self.path("sa.key");
        let mut command = self.openssl();
        command.args([
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            &key,
        ]);
        process::run(&mut command).await?;
        let mut command = self.openssl();
        command.args(["pkey", "-in", &key, "-pubout", "-out", &self.path("sa.pub")]);
        process::run(&mut command).await?;
        Ok(())
    }

    fn openssl(&self) -> Command {
        process::command(self.site, "openssl")
    }

    /// Writes a kubeconfig for the identity of `NAME.crt`, complete in itself.
    ///
    /// # Errors
    /// When a certificate is missing or the file cannot be written.
    pub(super) fn kubeconfig(&self, name: &str, server: &str, path: &Path) -> Result<()> {
        let read = |file: String| {
            fs::read(self.dir.join(&file))
                .map(|data| STANDARD.encode(data))
                .context(file)
        };
        // JSON is YAML, and kubeconfigs are read as YAML.
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "stand", "cluster": {
                "server": server, "certificate-authority-data": read("ca.crt".into())? } }],
            "users": [{ "name": name, "user": {
                "client-certificate-data": read(format!("{name}.crt"))?,
                "client-key-data": read(format!("{name}.key"))? } }],
            "contexts": [{ "name": "stand", "context": { "cluster": "stand", "user": name } }],
            "current-context": "stand",
        });
        fs::write(path, serde_json::to_vec_pretty(&config)?)
            .with_context(|| format!("writing {}", path.display()))
    }
}
