//! What a job can see: everything that it can read is collected by itself, in a container, in each of the four ways,
//! and searched from outside; the table of `docs/gitlab.md` says what is found.
//!
//! The app prints its Secret and crashes, so the last lines in the log had values in them before the agent took them out.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use tests::stand::Stand;
use tests::stand::docker::CURL;

use super::bring_client;
use super::container;
use crate::client::folder;
use crate::client::told;
use crate::leaks;
use crate::pages::read;
use crate::platform::Platform;
use crate::platform::small_image;
use crate::platform::small_server;

/// The ways, as the table calls them and as their examples are called.
const WAYS: [(&str, &str); 4] = [
    ("manifests", "flask"),
    ("kustomize", "flask-kustomize"),
    ("Helm", "flask-helm"),
    ("Flux", "flask-flux"),
];

/// What the app does that tells its Secret.
const LEAKY: &str = r#"CMD ["/bin/sh", "-c", "echo \"url $DATABASE_URL\"; printf %s \"$API_KEY\" | base64; echo key $API_KEY; exit 3"]
"#;

/// The job: it deploys what works and what leaks, and keeps all that it can read in /seen.
const JOB: &str = r#"set -eu
socket=/run/quaymaster/jobs
agent() {
    curl --silent --show-error --unix-socket $socket/quaymaster.sock --header 'X-Quaymaster-Client: curl' \
        --header "Authorization: Bearer $QUAYMASTER_ID_TOKEN" "$@"
}
quaymaster() { $socket/quaymaster "$@"; }
keep() { name=$1; shift; "$@" > "/seen/$name" 2>&1; }
keep plan quaymaster plan --save /seen/saved-plan
keep deploy quaymaster deploy --report /seen/report --dotenv /seen/variables
export IMAGE="$LEAKY"
code=0
keep failed quaymaster deploy --report /seen/failed-report --dotenv /seen/failed-variables || code=$?
test $code = 11
keep whoami quaymaster whoami
keep list quaymaster list

app="$(jq -r .name /seen/report)"
keep document agent --fail http://localhost/openapi.json
keep runs agent --fail http://localhost/v1/deploys
jq -r '.runs[].id' /seen/runs > /tmp/ids
test "$(wc -l < /tmp/ids)" = 3
jq -r '.paths | to_entries[] | select(.value.get.tags // ["admin"] | index("admin") | not) | .key' /seen/document |
    while read -r path; do
        case "$path" in
        *'{id}'*) while read -r id; do echo "$path" | sed "s/{id}/$id/"; done < /tmp/ids ;;
        *) echo "$path" | sed "s/{cluster}/stand/; s/{namespace}/$NAMESPACE/; s/{name}/$app/" ;;
        esac
    done > /seen/paths
while read -r path; do
    keep "answer$(echo "$path" | tr / _)" agent --globoff "http://localhost$path"
    keep "text$(echo "$path" | tr / _)" agent --globoff --header 'Accept: text/plain' "http://localhost$path"
done < /seen/paths

keep environment env
cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/mountinfo > /seen/processes 2> /dev/null || true
ls -laR $socket > /seen/folder
find / -type f ! -path '/proc/*' ! -path '/sys/*' ! -path '/seen/*' > /seen/names
find / -type f ! -path '/proc/*' ! -path '/sys/*' ! -path '/seen/*' -exec cat {} + > /seen/files
"#;

/// What a job of one way has kept, by name, and what it should not have seen.
struct Seen {
    texts: BTreeMap<String, String>,
    token: String,
    values: Vec<String>,
    cluster: Vec<String>,
    vault: Vec<String>,
    git: Vec<String>,
}

impl Seen {
    /// Whether the job has read one of these anywhere.
    fn holds(&self, needles: &[String]) -> bool {
        let texts = || self.texts.values();
        needles
            .iter()
            .any(|needle| texts().any(|text| text.contains(needle)))
    }

    /// What was kept under this name.
    fn text(&self, name: &str) -> Result<&str> {
        let text = self.texts.get(name).map(String::as_str);
        text.with_context(|| format!("{name} is kept; there are {:?}", self.texts.keys()))
    }

    /// What the job has read but for programs, whose own words look like anything.
    fn told(&self) -> impl Iterator<Item = &str> {
        let texts = self.texts.iter().filter(|(name, _)| *name != "files");
        texts.map(|(_, text)| text.as_str())
    }

    /// Words that look like a token: of GitLab or Kubernetes, or of Vault.
    fn tokens(&self) -> (Vec<&str>, Vec<&str>) {
        let of_word = |symbol: char| symbol.is_ascii_alphanumeric() || "._-".contains(symbol);
        let words = self
            .told()
            .flat_map(|text| text.split(|symbol| !of_word(symbol)));
        let (mut web, mut vault) = (Vec::new(), Vec::new());
        for word in words {
            if word.starts_with("eyJ") {
                web.push(word);
            } else if word.starts_with("hvs.") || (word.starts_with("s.") && word.len() > 20) {
                vault.push(word);
            }
        }
        (web, vault)
    }

    /// Whether it sees what a row of the table names.
    fn sees(&self, row: &str) -> Result<bool> {
        let (web, vault) = self.tokens();
        Ok(match row {
            "its own id_token, which GitLab puts into its environment" => {
                self.text("environment")?.contains(&self.token)
                    && self.text("processes")?.contains(&self.token)
            }
            "names of its Secrets and their keys, and their paths in Vault" => {
                let plan = self.text("plan")?;
                ["flask-db", "api-key", "database/creds/flask"]
                    .iter()
                    .all(|name| plan.contains(name))
            }
            "its objects, and names and events of its pods" => {
                let log = self.text("failed")?;
                log.contains("Deployment") && log.contains("of pod flask-")
            }
            "last lines of its containers that failed, without values of its Secrets" => {
                let log = self.text("failed")?;
                log.contains("| key [redacted]") && log.contains("| url [redacted]")
            }
            "values of its Secrets" => {
                self.holds(&self.values)
                    || self
                        .texts
                        .iter()
                        .any(|(name, text)| leaks::clean(name, text).is_err())
            }
            "a credential of the cluster" => {
                let files = self.text("names")?;
                let named = ["kubeconfig", "/.kube/", "kubernetes.io/serviceaccount"];
                self.holds(&self.cluster)
                    || named.iter().any(|name| files.contains(name))
                    || web.iter().any(|word| *word != self.token)
            }
            "a credential of Vault" => self.holds(&self.vault) || !vault.is_empty(),
            "a credential of a Git repository" => self.holds(&self.git),
            "the agent's admin socket and files" => {
                let mut names: Vec<&str> = self.text("folder")?.split_whitespace().collect();
                names.retain(|name| name.contains("quaymaster"));
                names != ["/run/quaymaster/jobs:", "quaymaster", "quaymaster.sock"]
            }
            other => anyhow::bail!("the table has a row that nobody looks into: {other}"),
        })
    }
}

/// Runs the job of one way and reads what it has kept.
async fn look(stand: &Stand, way: &'static str, images: [&str; 2]) -> Result<Seen> {
    let platform = Platform::new(way).await?;
    let world = &platform.world;
    bring_client(world).await?;
    let files = platform.files()?;
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let checkout = folder(world, &files)?;
    // As a runner leaves its checkouts: for whatever user the job's image has.
    fs::set_permissions(checkout.path(), fs::Permissions::from_mode(0o755))?;
    let seen = world.dir().join("seen");
    fs::create_dir_all(&seen)?;

    let mut variables = platform.job("production")?;
    for (name, image) in ["IMAGE", "LEAKY"].into_iter().zip(images) {
        variables.insert(name.to_owned(), image.to_owned());
    }
    let token = variables["QUAYMASTER_ID_TOKEN"].clone();
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let docker = stand.docker().await?;
    let mut command = container(&docker, world, checkout.path(), &variables)?;
    command
        .arg(format!("--volume={}:/seen", seen.display()))
        .args([CURL, "sh", "-c", JOB]);
    let output = command.output().await?;

    let mut texts = BTreeMap::new();
    for file in leaks::walk(&seen)? {
        let name = file.strip_prefix(&seen)?.display().to_string();
        texts.insert(
            name,
            String::from_utf8_lossy(&fs::read(&file)?).into_owned(),
        );
    }
    ensure!(
        output.status.success(),
        "{way}: {}\n{:?}\n{:?}",
        told(&output),
        texts.get("deploy"),
        texts.get("failed")
    );
    texts.insert("output".to_owned(), told(&output));
    let facts = stand.facts();
    let kubeconfig = fs::read_to_string(&facts.kubeconfig_agent)?;
    let keys = kubeconfig.split_whitespace().filter(|word| word.len() > 60);
    let accounts = [&facts.git_accounts.writer, &facts.git_accounts.reader];
    let found = Seen {
        texts,
        token,
        values: platform.secrets(&platform.namespace("production")).await?,
        cluster: keys.map(str::to_owned).collect(),
        vault: vec![fs::read_to_string(world.dir().join("secret_id"))?],
        git: accounts.map(|account| account.password.clone()).to_vec(),
    };
    let counts = (found.cluster.len(), found.values.len());
    ensure!(
        counts.0 > 0 && counts.1 >= 4,
        "{way}: {counts:?} to look for"
    );
    platform.leave().await?;
    Ok(found)
}

/// The rows of the table: what, and whether it is seen in each way.
fn table(page: &str) -> Result<Vec<(String, [bool; 4])>> {
    let part = page.split("## What a job can see").nth(1);
    let part = part.context("the page has the section")?;
    let part = part.split("\n## ").next().unwrap_or_default();
    let lines: Vec<Vec<&str>> = part
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    ensure!(
        lines[0][1..] == WAYS.map(|(name, _)| name),
        "{:?}",
        lines[0]
    );
    let rows = lines.iter().skip(2).map(|cells| {
        let [what, seen @ ..] = &cells[..] else {
            anyhow::bail!("a row is empty");
        };
        let seen: [&str; 4] = seen.try_into().context("four ways")?;
        ensure!(
            seen.iter().all(|cell| ["yes", "no"].contains(cell)),
            "{cells:?}"
        );
        Ok(((*what).to_owned(), seen.map(|cell| cell == "yes")))
    });
    rows.collect()
}

#[tokio::test]
async fn a_job_sees_no_secret_and_no_credential_of_the_cluster() -> Result<()> {
    let stand = Stand::shared().await?;
    if !stand.facts().has_node {
        return Ok(());
    }
    let server = small_server(stand).await?;
    let leaky = small_image(stand, "flask-small:leaky", LEAKY).await?;
    let [plain, kustomize, helm, flux] = WAYS.map(|(_, way)| look(stand, way, [&server, &leaky]));
    let (plain, kustomize, helm, flux) = tokio::try_join!(plain, kustomize, helm, flux)?;
    let rows = table(&read("docs/gitlab.md")?)?;
    ensure!(rows.len() == 9, "{rows:?}");
    for (what, says) in &rows {
        for (((way, _), seen), says) in WAYS
            .iter()
            .zip([&plain, &kustomize, &helm, &flux])
            .zip(says)
        {
            let sees = seen.sees(what)?;
            println!("{way}: {what}: {sees}");
            let places = seen.texts.iter().filter(|(name, text)| {
                leaks::clean(name, text).is_err()
                    || seen.values.iter().any(|value| text.contains(value))
            });
            let places: Vec<&String> = places.map(|(name, _)| name).collect();
            ensure!(
                sees == *says,
                "{way}: {what}: {sees}; values are in {places:?}\n{:?}",
                seen.texts.get("failed")
            );
        }
    }
    // The search finds what is there.
    let mut seen = flux;
    let planted = [
        &seen.values[0],
        &seen.cluster[0],
        &seen.vault[0],
        &seen.git[0],
    ]
    .map(String::clone);
    let no = rows.iter().filter(|(_, says)| !says[0]).take(4);
    for ((what, _), planted) in no.zip(planted) {
        seen.texts.insert("planted".to_owned(), planted);
        ensure!(seen.sees(what)?, "{what} is not found");
        seen.texts.remove("planted");
    }
    Ok(())
}
