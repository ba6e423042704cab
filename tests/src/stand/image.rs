//! Images: a tiny one that every stand has, the base image of the demo, and builds from a Dockerfile.
//!
//! The tiny one (busybox alone) is put together here, needs no tool and no rights, and serves pods of scenarios
//! and as the pause image. The base image comes from Debian's archive by debootstrap, once, into the cache.
//! Invariant: an image in the cache is whole; it is made beside and renamed.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use aws_lc_rs::digest::Context as Digest;
use aws_lc_rs::digest::SHA256;
use serde_json::Value;
use serde_json::json;
use tokio::process::Command;

use super::http;
use super::layout::Site;
use super::process;

/// Name of the tiny image in the registry, without the registry.
pub const BUSYBOX: &str = "busybox:1";
/// Name of the tiny image as containerd's pause image.
pub const PAUSE: &str = "localhost/stand/busybox:1";
/// Name of the demo's base image in the registry, without the registry.
pub const PYTHON: &str = "python:3.11-slim";

/// Debian packages in the base image besides the smallest system.
const PYTHON_PACKAGES: &str = "python3-flask,python3-psycopg2,python3-pip";

/// Where the tiny image is kept, in the form that `docker save` writes.
#[must_use]
pub fn busybox_archive(cache: &Path) -> PathBuf {
    cache.join("images/busybox-1.tar")
}

fn layer(cache: &Path, name: &str) -> PathBuf {
    cache.join(format!("images/{name}.layer.tar"))
}

/// The one layer of the tiny image, once that was made.
pub(super) fn busybox_layer(cache: &Path) -> PathBuf {
    layer(cache, "busybox-1")
}

/// Writes a layer with an empty folder and no program.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write_empty_layer(to: &Path) -> Result<()> {
    let mut tar = tar::Builder::new(File::create(to)?);
    let mut folder = head(tar::EntryType::Directory, 0, 0o755);
    tar.append_data(&mut folder, "empty/", std::io::empty())?;
    tar.into_inner()?;
    Ok(())
}

/// Puts the tiny image together, if the cache has none.
///
/// # Errors
/// When busybox is missing or not static.
pub fn make_busybox(cache: &Path) -> Result<()> {
    if busybox_archive(cache).is_file() {
        return Ok(());
    }
    let binary = fs::read("/bin/busybox")
        .context("busybox is not installed; apt-get install busybox-static")?;
    let listed = std::process::Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .context("asking busybox what it can do")?;
    let applets = String::from_utf8(listed.stdout).context("applets of busybox")?;
    fs::create_dir_all(cache.join("images"))?;
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["bin/", "tmp/", "etc/", "proc/", "sys/", "dev/"] {
        tar.append_data(
            &mut head(tar::EntryType::Directory, 0, 0o755),
            dir,
            std::io::empty(),
        )?;
    }
    let length = u64::try_from(binary.len())?;
    tar.append_data(
        &mut head(tar::EntryType::Regular, length, 0o755),
        "bin/busybox",
        binary.as_slice(),
    )?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        tar.append_link(
            &mut head(tar::EntryType::Symlink, 0, 0o777),
            format!("bin/{applet}"),
            "busybox",
        )?;
    }
    let users = b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    tar.append_data(
        &mut head(tar::EntryType::Regular, users.len() as u64, 0o644),
        "etc/passwd",
        users.as_slice(),
    )?;
    let content = tar.into_inner()?;
    let path = busybox_layer(cache);
    fs::write(&path, &content)?;
    let config = serde_json::to_vec(&busybox_config(&path)?)?;
    let manifest =
        json!([{ "Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"] }])
            .to_string();
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in [
        ("config.json", config.as_slice()),
        ("layer.tar", &content),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let length = u64::try_from(bytes.len())?;
        archive.append_data(
            &mut head(tar::EntryType::Regular, length, 0o644),
            name,
            bytes,
        )?;
    }
    super::layout::write_whole(&busybox_archive(cache), &archive.into_inner()?)
}

fn head(kind: tar::EntryType, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header
}

fn busybox_config(layer: &Path) -> Result<Value> {
    config(
        layer,
        &json!({ "Env": ["PATH=/bin"], "Cmd": ["sleep", "2147483647"] }),
    )
}

fn config(layer: &Path, run: &Value) -> Result<Value> {
    let (digest, _) = digest(layer)?;
    Ok(
        json!({ "architecture": "amd64", "os": "linux", "config": run,
        "rootfs": { "type": "layers", "diff_ids": [digest] }, "history": [{ "created_by": "stand" }] }),
    )
}

/// Pushes the tiny image to the stand's registry.
///
/// # Errors
/// When the registry refuses.
pub async fn push_busybox(site: &Site) -> Result<String> {
    let layer = busybox_layer(&site.cache);
    let config = busybox_config(&layer)?;
    push(
        &format!("http://127.0.0.1:{}", site.ports.registry),
        BUSYBOX,
        &layer,
        &config,
    )
    .await
}

/// Pushes an image of one layer; returns its digest.
async fn push(registry: &str, name: &str, layer: &Path, config: &Value) -> Result<String> {
    let (repository, tag) = name.rsplit_once(':').context("an image name has a tag")?;
    let config = serde_json::to_vec(config)?;
    let config_digest = digest_of(&config);
    let (layer_digest, layer_size) = digest(layer)?;
    let size = config.len();
    let client = http::client(None)?;
    let start = async || {
        let response = client
            .post(format!("{registry}/v2/{repository}/blobs/uploads/"))
            .send()
            .await?
            .error_for_status()?;
        let location = response
            .headers()
            .get("location")
            .and_then(|value| value.to_str().ok());
        // Absolute, by the name that the request used.
        location
            .map(str::to_owned)
            .context("the registry named no place to upload to")
    };
    let file = tokio::fs::File::open(layer).await?;
    for (digest, length, body) in [
        (&config_digest, size as u64, reqwest::Body::from(config)),
        (&layer_digest, layer_size, reqwest::Body::from(file)),
    ] {
        let place = start().await?;
        let glue = if place.contains('?') { '&' } else { '?' };
        let request = client
            .put(format!("{place}{glue}digest={digest}"))
            .timeout(Duration::from_secs(300));
        request
            .header("content-type", "application/octet-stream")
            .header("content-length", length)
            .body(body)
            .send()
            .await?
            .error_for_status()?;
    }
    let kind = "application/vnd.docker.distribution.manifest.v2+json";
    let manifest = serde_json::to_vec(&json!({ "schemaVersion": 2, "mediaType": kind,
        "config": { "mediaType": "application/vnd.docker.container.image.v1+json", "size": size, "digest": config_digest },
        "layers": [{ "mediaType": "application/vnd.docker.image.rootfs.diff.tar", "size": layer_size, "digest": layer_digest }] }))?;
    let digest = digest_of(&manifest);
    let request = client
        .put(format!("{registry}/v2/{repository}/manifests/{tag}"))
        .header("content-type", kind)
        .body(manifest);
    request.send().await?.error_for_status()?;
    Ok(digest)
}

fn digest(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    let mut state = Digest::new(&SHA256);
    let mut buffer = vec![0; 1 << 16];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        size += read as u64;
        state.update(&buffer[..read]);
    }
    Ok((hex(state.finish().as_ref()), size))
}

fn digest_of(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{text}")
}

/// Makes the demo's base image if the cache has none (a minute or two; needs root and Debian's archive), and
/// pushes it to the registry at `registry`.
///
/// # Errors
/// When debootstrap fails or the registry refuses.
pub async fn push_python(site: &Site, registry: &str) -> Result<String> {
    let layer = layer(&site.cache, "python-3.11-slim");
    if !layer.is_file() {
        make_python(site, &layer).await?;
    }
    let run =
        json!({ "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"], "Cmd": ["python3"] });
    push(registry, PYTHON, &layer, &config(&layer, &run)?).await
}

async fn make_python(site: &Site, layer: &Path) -> Result<()> {
    ensure!(
        process::find("debootstrap").is_some(),
        "debootstrap is not installed; apt-get install debootstrap"
    );
    let root = site.folder("debootstrap")?;
    let beside = layer.with_extension("new");
    // pip refuses Debian's Python unless told otherwise; in an image that is nobody's system. What apt fetched
    // and the documentation would be half of the image.
    let script = r#"set -e
debootstrap --variant=minbase --include="$1" bookworm "$2" >&2
ln -sf ../../bin/python3 "$2/usr/local/bin/python"
rm -rf "$2"/usr/lib/python3*/EXTERNALLY-MANAGED "$2"/var/cache/apt/* "$2"/var/lib/apt/lists/* "$2"/usr/share/doc/* "$2"/usr/share/man/* "$2"/usr/share/locale/* "$2"/dev/*
tar --numeric-owner --sort=name -C "$2" -cf "$3" .
rm -rf "$2""#;
    // Namespaces, so that nothing it mounts or starts outlives it; the network is the machine's.
    let mut command = Command::new("unshare");
    command
        .env("PATH", process::PATH)
        .args([
            "--pid",
            "--mount",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
            "sh",
            "-c",
            script,
            "sh",
            PYTHON_PACKAGES,
        ])
        .arg(&root)
        .arg(&beside);
    process::run_with(&mut command, None, Duration::from_secs(900))
        .await
        .context("making the base image")?;
    fs::rename(&beside, layer)?;
    Ok(())
}

/// Builds from a Dockerfile and pushes, as [`super::Stand::build_and_push`] says.
pub(super) async fn build_and_push(
    stand: &super::Stand,
    context: &Path,
    dockerfile: &Path,
    name: &str,
    arguments: &[(&str, &str)],
) -> Result<String> {
    let facts = stand.facts();
    ensure!(
        facts.has_node,
        "images are built inside the stand's namespaces, which need root"
    );
    let site = &facts.site;
    let reference = format!("{}/{name}", facts.registry);
    let policy = site.dir.join("image-policy.json");
    fs::write(
        &policy,
        r#"{ "default": [{ "type": "insecureAcceptAnything" }] }"#,
    )?;
    let (store, run) = (site.folder("buildah")?, site.folder("buildah-run")?);
    let buildah = |verb: &str| {
        let mut command = stand.inside("buildah");
        command
            .arg("--storage-driver=vfs")
            .arg("--root")
            .arg(&store)
            .arg("--runroot")
            .arg(&run);
        command
            .args([verb, "--tls-verify=false"])
            .arg("--signature-policy")
            .arg(&policy);
        command
    };
    let mut build = buildah("bud");
    // No network of its own: a build reaches the registry and nothing else.
    build
        .args([
            "--isolation=chroot",
            "--layers",
            "--pull",
            "--tag",
            &reference,
        ])
        .arg("--file")
        .arg(dockerfile);
    for (key, value) in arguments {
        build.arg("--build-arg").arg(format!("{key}={value}"));
    }
    build.arg(context);
    process::run_with(&mut build, None, Duration::from_secs(600))
        .await
        .with_context(|| format!("building {reference}"))?;
    let said = run.join("digest");
    let mut push = buildah("push");
    push.arg("--digestfile")
        .arg(&said)
        .args([&reference, &format!("docker://{reference}")]);
    process::run_with(&mut push, None, Duration::from_secs(600))
        .await
        .with_context(|| format!("pushing {reference}"))?;
    let (repository, _) = reference
        .rsplit_once(':')
        .context("an image name has a tag")?;
    Ok(format!(
        "{repository}@{}",
        fs::read_to_string(&said)?.trim()
    ))
}
