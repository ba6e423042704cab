//! The wall clock and randomness of the process.
//!
//! The only place that reads either; everything else gets them from here or from a test. Made in
//! `app`, used for timestamps of events and runs and for ids. Waiting never uses this clock: it uses
//! tokio's timer, which tests pause.

use std::io;

use deploy::ports::Clock;
use proto::ids::RunId;
use rustix::rand::GetRandomFlags;
use rustix::rand::getrandom;

/// The system's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}

/// Reads `N` random bytes from the kernel; never blocks once the system has started.
///
/// # Errors
/// When the kernel has no randomness to give, which a running system does not do.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

/// Makes a run id: 48 bits of time in milliseconds, then 80 random bits, so that ids sort by time
/// and cannot be guessed.
///
/// # Errors
/// When there is no randomness.
pub fn run_id(clock: &dyn Clock) -> io::Result<RunId> {
    let millis = u64::try_from(clock.now().as_millisecond()).unwrap_or(0);
    let random = u128::from_be_bytes(random::<16>()?) >> 48;
    Ok(RunId::from_bits((u128::from(millis) << 80) | random))
}

/// Draws from 0 to 999, to spread what would happen at once; without randomness nothing is spread.
#[must_use]
pub fn chance() -> u32 {
    random::<4>().map_or(0, u32::from_be_bytes) % 1_000
}

/// Makes the id of one policy decision.
///
/// # Errors
/// When there is no randomness.
pub fn decision_id() -> io::Result<String> {
    Ok(format!("d{:016x}", u64::from_be_bytes(random::<8>()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ids_differ_and_sort_by_time() {
        let first = run_id(&SystemClock).expect("randomness");
        let second = run_id(&SystemClock).expect("randomness");
        assert_ne!(first, second);
        assert!(first.as_str()[..12] <= second.as_str()[..12]);
    }
}
