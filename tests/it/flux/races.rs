//! Two writers at once on one branch: no push is lost, whatever they write. `cargo measure pushes` makes 200.

use anyhow::Result;
use anyhow::ensure;
use tests::pushes;
use tests::pushes::Files;
use tests::world::World;

/// Pushes of each writer.
const EACH: usize = 15;

async fn race(name: &str, files: Files) -> Result<()> {
    let world = World::without_agent(name).await?;
    let tally = pushes::race(&world, files, EACH).await?;
    println!("{files:?}: {tally}");
    ensure!(tally.pushes == 2 * EACH, "{tally}");
    Ok(())
}

#[tokio::test]
async fn pushes_of_two_writers_into_two_files_are_all_there() -> Result<()> {
    race("race-apart", Files::Apart).await
}

#[tokio::test]
async fn pushes_of_two_writers_into_one_file_are_all_there() -> Result<()> {
    race("race-shared", Files::Shared).await
}
