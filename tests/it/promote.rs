//! Promotions between two environments of one repository, with real controllers and a real Git server.

use anyhow::Result;
use anyhow::ensure;
use tests::stand::git::repository::Repository;
use tests::submission::Finished;
use tests::world::World;
use tests::world::fleet::Engine;

use crate::flux::missing;
use crate::flux::shown;

const CALL: &str = "/v1/deploys?promote=.quaymaster-from.yaml";

/// A world with two environments, `shop` and `live`, in one repository.
struct Shop {
    world: World,
    repository: Repository,
    credential: String,
}

impl Shop {
    async fn new(name: &str) -> Result<Self> {
        let mut world = World::without_agent(name).await?;
        let old = missing(&world);
        let (shop, live) = (web("shop", &old), web("live", &old));
        let files = [(path("shop"), shop.as_str()), (path("live"), live.as_str())];
        let files = files.each_ref().map(|(path, text)| (path.as_str(), *text));
        let repository = world.fleet_repository("fleet", &files).await?;
        for name in ["shop", "live"] {
            let path = format!("./apps/{name}");
            let engine = Engine::Kustomization { path: &path };
            world.fleet(name, &repository, engine).await?;
        }
        world.grant_fleet(&repository).await?;
        let writer = &world.stand.facts().git_accounts.writer;
        let credential = world.git_credential(writer).await?;
        world.start_agent().await?;
        Ok(Self {
            world,
            repository,
            credential,
        })
    }

    fn spec(&self, name: &str, image: &str) -> String {
        format!(
            "version: 1\nname: {name}\nflux:\n  repository: {url}\n  path: apps/{name}\n  credential: {{ vault: {vault} }}\n  \
             sources: {ns}/{name}\n  wait: {{ kustomizations: {ns}/{name} }}\nimages: {{ web: \"{image}\" }}\n\
             rollout: {{ timeout: 90s }}\n",
            url = self.repository.url(),
            vault = self.credential,
            ns = self.world.namespace,
        )
    }

    async fn deploy(&self, name: &str, image: &str) -> Result<Finished> {
        let spec = self.spec(name, image);
        self.world.deploy(&[("quaymaster.yaml", &spec)]).await
    }

    async fn promote(&self, from: &str) -> Result<Finished> {
        let to = self.spec("live", "web");
        let files = [
            ("quaymaster.yaml", to.as_str()),
            (".quaymaster-from.yaml", from),
        ];
        self.world.deploy_as(&self.world.job()?, CALL, &files).await
    }

    async fn file(&self, name: &str) -> Result<String> {
        let bytes = self.repository.file("main", &path(name)).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn path(name: &str) -> String {
    format!("apps/{name}/web.yaml")
}

fn web(name: &str, image: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: {name} }}\nspec:\n  replicas: 1\n  \
         progressDeadlineSeconds: 60\n  selector: {{ matchLabels: {{ app: {name} }} }}\n  template:\n    \
         metadata: {{ labels: {{ app: {name} }} }}\n    spec:\n      terminationGracePeriodSeconds: 0\n      \
         containers:\n        - name: web\n          \
         image: '{image}'   # {{\"$imagepolicy\": \"flux-system:web\"}}\n          command: [sleep, \"1000\"]\n"
    )
}

#[tokio::test]
async fn the_image_that_is_ready_in_one_environment_goes_to_the_other() -> Result<()> {
    let shop = Shop::new("promote-good").await?;
    let image = shop.world.stand.busybox();
    let first = shop.deploy("shop", &image).await?;
    ensure!(first.status() == 200, "{}", shown(&first));
    let done = shop.promote(&shop.spec("shop", "web")).await?;
    ensure!(done.status() == 200, "{}", shown(&done));
    for name in ["shop", "live"] {
        ensure!(shop.file(name).await? == web(name, &image), "{name}");
    }
    let object = shop.world.object("deployment/live").await?;
    let running = &object["spec"]["template"]["spec"]["containers"][0]["image"];
    ensure!(*running == image, "{running}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_promoted_from_what_is_not_ready_or_not_granted() -> Result<()> {
    let shop = Shop::new("promote-bad").await?;
    let before = shop.repository.head("main").await?;
    let done = shop.promote(&shop.spec("shop", "web")).await?;
    ensure!(done.code() == "promotion_refused", "{}", shown(&done));
    ensure!(shown(&done).contains("not-there"), "{}", shown(&done));
    // Objects of Flux that the rule does not grant.
    let ours = format!("kustomizations: {}/shop", shop.world.namespace);
    let theirs = shop.spec("shop", "web");
    let theirs = theirs.replace(&ours, "kustomizations: flux-system/shop");
    let denied = shop.promote(&theirs).await?;
    ensure!(denied.status() == 403, "{}", shown(&denied));
    ensure!(
        shown(&denied).contains("promoting from shop"),
        "{}",
        shown(&denied)
    );
    ensure!(
        shop.repository.head("main").await? == before,
        "nothing is pushed"
    );
    Ok(())
}
