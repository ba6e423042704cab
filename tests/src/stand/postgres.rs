//! PostgreSQL: the database that OpenBao issues credentials for and that the sample app reads.
//!
//! Started by `servers`. It refuses to run as root, so root's stand runs it as the user that its Debian package
//! made, on a folder that only exists inside the stand's mount namespace. Invariant: the machine's own
//! PostgreSQL and its data are never touched.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use tokio::process::Command;

use super::layout::NODE_ADDRESS;
use super::layout::POD_NETWORK;
use super::layout::Site;
use super::process;
use super::process::Server;
use crate::wait::until;

/// User that OpenBao connects as.
pub(super) const MASTER: &str = "openbao";
/// Password of [`MASTER`]; reachable from the stand's own network only.
pub(super) const MASTER_PASSWORD: &str = "stand-master";

/// What the sample app shows.
const SCHEMA: &str = "CREATE TABLE greetings (id integer PRIMARY KEY, text text NOT NULL);
    INSERT INTO greetings VALUES (1, 'A row from PostgreSQL');";

/// Starts PostgreSQL with the database `demo`.
///
/// # Errors
/// When it is not installed or does not answer.
pub(super) async fn start(site: &Site) -> Result<Server> {
    let bin = binaries().context("PostgreSQL is not installed; apt-get install postgresql")?;
    let data = data_folder(site)?;
    let mut init = as_owner(site, &bin.join("initdb"));
    init.args([
        "--no-sync",
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
    ])
    .args(["--username=postgres", "--no-instructions", "-D"])
    .arg(&data);
    process::run(&mut init).await?;
    let mut access = fs::read_to_string(data.join("pg_hba.conf"))?;
    access.push_str(&format!("host all all {POD_NETWORK} scram-sha-256\n"));
    fs::write(data.join("pg_hba.conf"), access)?;
    let socket = data.display().to_string();
    let listen = if site.isolated {
        format!("127.0.0.1,{NODE_ADDRESS}")
    } else {
        "127.0.0.1".to_owned()
    };
    let server_words = [
        bin.join("postgres").display().to_string(),
        "-D".to_owned(),
        socket.clone(),
        format!("-cport={}", site.ports.postgres),
        format!("-clisten_addresses={listen}"),
        format!("-cunix_socket_directories={socket}"),
        "-cfsync=off".to_owned(),
        "-cshared_buffers=16MB".to_owned(),
        "-cmax_connections=200".to_owned(),
    ];
    let mut words = owner_words(site);
    words.extend(server_words);
    let mut server = Server::start(site, "postgres", words.remove(0), &words)?;
    let master = format!("CREATE ROLE {MASTER} SUPERUSER LOGIN PASSWORD '{MASTER_PASSWORD}'");
    until("PostgreSQL", Duration::from_secs(60), async || {
        server.look(psql(site, &bin, "postgres", &master).await)
    })
    .await?;
    psql(site, &bin, "postgres", "CREATE DATABASE demo").await?;
    psql(site, &bin, "demo", SCHEMA).await?;
    Ok(server)
}

/// Folder of the newest installed PostgreSQL's programs.
#[must_use]
pub(super) fn binaries() -> Option<PathBuf> {
    let debian = fs::read_dir("/usr/lib/postgresql")
        .ok()
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let mut found: Vec<PathBuf> = debian
        .map(|entry| entry.path().join("bin"))
        .filter(|dir| dir.join("initdb").is_file())
        .collect();
    found.sort();
    found
        .pop()
        .or_else(|| process::find("initdb").and_then(|path| path.parent().map(Path::to_owned)))
}

fn data_folder(site: &Site) -> Result<PathBuf> {
    if !site.isolated {
        return site.folder("postgres");
    }
    // Below /var, which is the stand's own there; the state folder is closed to the other user.
    let data = PathBuf::from("/var/lib/postgresql/stand");
    fs::create_dir_all(&data)?;
    let owner = fs::metadata("/var/lib/postgresql")?;
    std::os::unix::fs::chown(
        &data,
        Some(std::os::unix::fs::MetadataExt::uid(&owner)),
        None,
    )?;
    Ok(data)
}

/// Words before a program that make it run as the owner of the data.
fn owner_words(site: &Site) -> Vec<String> {
    let words: &[&str] = if site.isolated {
        &[
            "setpriv",
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--",
            "env",
            "TMPDIR=/tmp",
            "HOME=/tmp",
        ]
    } else {
        &["env"]
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn as_owner(site: &Site, program: &Path) -> Command {
    let words = owner_words(site);
    let mut command = process::command(site, &words[0]);
    command.args(&words[1..]).arg(program).current_dir("/");
    command
}

async fn psql(site: &Site, bin: &Path, database: &str, sql: &str) -> Result<()> {
    let data = data_folder(site)?;
    let mut command = as_owner(site, &bin.join("psql"));
    command
        .args([
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-d",
            database,
            "-c",
            sql,
            "-h",
        ])
        .arg(data)
        .args(["-p", &site.ports.postgres.to_string()]);
    process::run(&mut command).await.map(drop)
}

/// Runs SQL with all rights on the sample's database at `address`, `host:port`; returns its rows.
///
/// # Errors
/// When PostgreSQL refuses or is not installed.
pub async fn query(address: &str, sql: &str) -> Result<String> {
    query_as((MASTER, MASTER_PASSWORD), address, sql).await
}

/// Runs SQL as a user with a password, as [`query`].
///
/// # Errors
/// When PostgreSQL refuses or is not installed.
pub async fn query_as((user, password): (&str, &str), address: &str, sql: &str) -> Result<String> {
    let bin = binaries().context("PostgreSQL is not installed")?;
    let (host, port) = address.split_once(':').context("host and port")?;
    let mut command = Command::new(bin.join("psql"));
    command
        .env("PGPASSWORD", password)
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
        .args(["-h", host, "-p", port, "-U", user, "-d", "demo", "-c", sql]);
    process::run(&mut command).await
}
