//! Turns on a paused clock: how many calls run at once, who is next, who never waits.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::*;
use crate::fakes::FakeCluster;
use crate::secret::FingerprintKey;

fn paced() -> Paced {
    let key = Arc::new(FingerprintKey::new([1; 32]));
    Paced::new(Arc::new(FakeCluster::new(key)))
}

/// A call that takes a tenth of a second, then says how many of them ran beside it.
async fn slow(paced: &Paced, running: &Mutex<usize>) -> Result<usize, ClusterError> {
    let call = async {
        let many = {
            let mut running = running.lock().expect("nothing panics here");
            *running += 1;
            *running
        };
        tokio::time::sleep(Duration::from_millis(100)).await;
        *running.lock().expect("nothing panics here") -= 1;
        Ok(many)
    };
    paced.in_turn(call).await
}

fn pushed_back(seconds: u64) -> ClusterError {
    ClusterError::Unavailable {
        reason: "429".to_owned(),
        retry_after_seconds: Some(seconds),
    }
}

#[tokio::test(start_paused = true)]
async fn the_number_in_flight_grows_with_good_answers() {
    let (paced, running) = (paced(), Mutex::new(0));
    let calls: FuturesUnordered<_> = (0..400).map(|_| slow(&paced, &running)).collect();
    let many: Vec<usize> = calls.map(Result::unwrap).collect().await;
    assert_eq!(many[..16].iter().max(), Some(&16));
    assert_eq!(many.iter().max(), Some(&64));
}

#[tokio::test(start_paused = true)]
async fn turns_are_taken_away_after_push_back() {
    let (paced, running) = (paced(), Mutex::new(0));
    let refused = paced.in_turn(async { Err::<(), _>(pushed_back(1)) }).await;
    assert!(refused.is_err());
    // The other turns go as their calls come back.
    for _ in 0..8 {
        let calm = paced.in_turn(async { Ok(()) }).await;
        assert!(calm.is_ok());
    }
    let calls: FuturesUnordered<_> = (0..8).map(|_| slow(&paced, &running)).collect();
    let many: Vec<usize> = calls.map(Result::unwrap).collect().await;
    assert_eq!(many.iter().max(), Some(&8));
    assert_eq!(paced.turns.available_permits(), 8);
}

#[tokio::test(start_paused = true)]
async fn everybody_waits_as_long_as_the_server_asked_one_of_them() {
    let paced = paced();
    let refused = paced.in_turn(async { Err::<(), _>(pushed_back(7)) }).await;
    assert!(refused.is_err());
    let began = Instant::now();
    let next = paced.in_turn(async { Ok(Instant::now()) }).await;
    let waited = next.expect("it was let through").duration_since(began);
    // The timer of the paused clock counts whole milliseconds.
    assert!(
        waited >= Duration::from_secs(7) && waited < Duration::from_secs(8),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn turns_come_in_the_order_of_asking() {
    let (paced, order) = (paced(), Mutex::new(Vec::new()));
    let call = |number: usize| {
        let (paced, order) = (&paced, &order);
        async move {
            let noted = async {
                order.lock().expect("nothing panics here").push(number);
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(())
            };
            paced.in_turn(noted).await
        }
    };
    let calls: Vec<_> = (0..100).map(call).collect();
    let done = futures::future::join_all(calls).await;
    assert!(done.iter().all(Result::is_ok));
    let order = order.into_inner().expect("nothing panics here");
    assert_eq!(order, (0..100).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_renewed_while_everything_else_waits() {
    let paced = paced();
    let refused = paced.in_turn(async { Err::<(), _>(pushed_back(30)) }).await;
    assert!(refused.is_err());
    let actor = Actor {
        user: "job".to_owned(),
        groups: Vec::new(),
    };
    let lock = ObjectId {
        gvk: Gvk::new("coordination.k8s.io/v1", "Lease"),
        namespace: Some("app".to_owned()),
        name: "app".to_owned(),
    };
    let began = Instant::now();
    assert_eq!(paced.get(&actor, &lock).await, Ok(None));
    assert_eq!(Instant::now(), began);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_gives_its_turn_back() {
    let paced = paced();
    for _ in 0..20 {
        let endless = paced.in_turn(std::future::pending::<Result<(), ClusterError>>());
        let cut = tokio::time::timeout(Duration::from_millis(1), endless).await;
        assert!(cut.is_err());
    }
    assert_eq!(paced.turns.available_permits(), 16);
}
