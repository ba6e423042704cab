//! How git gets in: a configuration in memory with the credential, bound to the one address.
//!
//! Used by [`super`]. Invariant: the credential is in no argument, no environment and on no disk. A password
//! is a header that git sends to the server of the address only, and redirects are not followed. A private
//! key goes to an `ssh-agent` of the call's own through its standard input; git's ssh asks that agent, and
//! takes no server whose key is not the one that was given.

use std::fs::File;
use std::path::Path;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use deploy::ports::Branch;
use deploy::ports::Files;
use deploy::ports::GitError;
use deploy::ports::GitLogin;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::broken;
use crate::child;
use crate::child::Child;
use crate::child::Ending;
use crate::child::Input;
use crate::child::folder::Folder;
use crate::config::GitPrograms;

/// The server and how it is spoken to.
pub(super) struct Access {
    config: Zeroizing<String>,
    /// Ends the key's agent.
    _agent: Option<KeyAgent>,
}

/// An `ssh-agent` that ends with this value.
struct KeyAgent(JoinHandle<()>);

impl Drop for KeyAgent {
    fn drop(&mut self) {
        // Its child is killed with the task that holds it.
        self.0.abort();
    }
}

impl Access {
    /// Prepares a call to the server of a branch.
    pub(super) async fn of(
        branch: &Branch,
        login: &GitLogin,
        programs: &GitPrograms,
        folder: &Folder,
        deadline: Instant,
    ) -> Result<Self, GitError> {
        let address = branch.repository.as_str();
        let mut config = Zeroizing::new(common(address, programs.ca_file.as_deref()));
        let mut agent = None;
        match login {
            GitLogin::Nobody => {}
            GitLogin::Password { user, password } => {
                let pair = Zeroizing::new([user.as_bytes(), b":", password.reveal()].concat());
                let pair = Zeroizing::new(STANDARD.encode(&pair));
                config.push_str(&format!(
                    "[http \"{address}\"]\n\textraHeader = \"Authorization: Basic {}\"\n",
                    *pair
                ));
            }
            GitLogin::Key { key, known_hosts } => {
                let hosts = Files::from([("known".to_owned(), known_hosts.clone().into_bytes())]);
                folder.put("hosts", &hosts).map_err(broken)?;
                let keys = Keys {
                    programs,
                    folder: folder.path(),
                    deadline,
                };
                let socket = folder.path().join("agent");
                agent = Some(keys.start(&socket).await?);
                keys.add(&socket, key.reveal()).await?;
                config.push_str(&ssh(programs, folder.path(), &socket)?);
            }
        }
        Ok(Self {
            config,
            _agent: agent,
        })
    }

    /// Makes the configuration as a file in memory.
    pub(super) fn config(&self) -> Result<File, GitError> {
        child::sealed("git-config", self.config.as_bytes()).map_err(broken)
    }
}

/// What holds for every call towards a server.
fn common(address: &str, ca_file: Option<&Path>) -> String {
    let (protocol, _) = address.split_once("://").unwrap_or(("https", ""));
    let mut config = format!(
        "[protocol]\n\tallow = never\n[protocol \"{protocol}\"]\n\tallow = always\n\
         [http]\n\tfollowRedirects = false\n\tlowSpeedLimit = 1\n\tlowSpeedTime = 30\n\
         [core]\n\thooksPath = /dev/null\n\taskPass = /bin/false\n\
         [credential]\n\thelper = \"\"\n\
         [transfer]\n\tfsckObjects = true\n\
         [gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n[submodule]\n\trecurse = false\n"
    );
    if let Some(path) = ca_file {
        config.push_str(&format!("[http]\n\tsslCAInfo = \"{}\"\n", path.display()));
    }
    config
}

/// How git calls ssh: without anybody's configuration, with the call's agent and known hosts only.
fn ssh(programs: &GitPrograms, folder: &Path, socket: &Path) -> Result<String, GitError> {
    let program = program(programs, "ssh")?;
    let options = [
        "BatchMode=yes".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        format!(
            "UserKnownHostsFile={}",
            folder.join("hosts/known").display()
        ),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        format!("IdentityAgent={}", socket.display()),
        "IdentityFile=none".to_owned(),
        "PreferredAuthentications=publickey".to_owned(),
        "ConnectTimeout=20".to_owned(),
        "ForwardAgent=no".to_owned(),
        "LogLevel=ERROR".to_owned(),
    ];
    let options: Vec<String> = options
        .iter()
        .map(|option| format!("-o {option}"))
        .collect();
    Ok(format!(
        "[core]\n\tsshCommand = {} -F none {}\n[ssh]\n\tvariant = ssh\n",
        program.display(),
        options.join(" ")
    ))
}

fn program(programs: &GitPrograms, name: &'static str) -> Result<PathBuf, GitError> {
    let folder = programs.ssh_folder.as_ref();
    let path = folder.map(|folder| folder.join(name));
    path.ok_or(GitError::Missing { program: name })
}

/// Starts an agent for keys and gives it one.
struct Keys<'a> {
    programs: &'a GitPrograms,
    folder: &'a Path,
    deadline: Instant,
}

impl Keys<'_> {
    async fn start(&self, socket: &Path) -> Result<KeyAgent, GitError> {
        let program = program(self.programs, "ssh-agent")?;
        let folder = self.folder.to_owned();
        let time = self.left();
        let words = ["-D".into(), "-a".into(), socket.into()].into();
        let task = tokio::spawn(async move {
            let child = Child {
                program: &program,
                words,
                environment: Vec::new(),
                input: Input::Nothing,
                ending: Ending::Kill,
                time,
            };
            drop(child.run(&folder).await);
        });
        let agent = KeyAgent(task);
        while !socket.exists() {
            if agent.0.is_finished() || Instant::now() >= self.deadline {
                return Err(broken("ssh-agent did not start"));
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Ok(agent)
    }

    async fn add(&self, socket: &Path, key: &[u8]) -> Result<(), GitError> {
        let mut text = Zeroizing::new(key.to_vec());
        if text.last() != Some(&b'\n') {
            text.push(b'\n'); // OpenSSH takes no key without it.
        }
        let program = program(self.programs, "ssh-add")?;
        let child = Child {
            program: &program,
            words: ["-q".into(), "-".into()].into(),
            environment: vec![("SSH_AUTH_SOCK", socket.into())],
            input: Input::Standard(child::sealed("key", &text).map_err(broken)?),
            ending: Ending::Kill,
            time: self.left(),
        };
        let ended = child.run(self.folder).await.map_err(broken)?;
        if ended.status.success() {
            return Ok(());
        }
        // Its words may name the key's comment.
        Err(broken(
            "the private key is not one that OpenSSH reads, or it has a passphrase",
        ))
    }

    fn left(&self) -> std::time::Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_protocol_of_the_address_is_spoken() {
        let config = common("ssh://git@git.example.com/x.git", None);
        assert!(config.contains("[protocol]\n\tallow = never"));
        assert!(config.contains("[protocol \"ssh\"]\n\tallow = always"));
        assert!(!config.contains("\"https\""));
        let config = common("https://x/y", Some(Path::new("/etc/ca.pem")));
        assert!(config.contains("sslCAInfo = \"/etc/ca.pem\""));
    }
}
