//! Random operations through the session machine, against a model of its client. `WEIRMQ_SESSION_OPS`
//! says how many, `WEIRMQ_SEED` where to begin; a failure names its seed.
#![allow(missing_docs)]

use std::panic::{AssertUnwindSafe, catch_unwind};

#[path = "common/session_driver.rs"]
mod session_driver;

use session_driver::Driver;

/// Operations in the life of one session.
const LIFE: u64 = 2_000;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

#[test]
fn the_client_sees_what_it_must_whatever_happens() {
    let (operations, first) = (from_env("WEIRMQ_SESSION_OPS", 200_000), from_env("WEIRMQ_SEED", 0));
    let mut finished = 0;
    for seed in first..first + operations.div_ceil(LIFE) {
        let life = || {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut driver = Driver::new(random.u8(..));
            for _ in 0..LIFE {
                driver.step(random.u8(..), random.u8(..));
            }
            driver.finish();
            driver.finished
        };
        finished += catch_unwind(AssertUnwindSafe(life))
            .unwrap_or_else(|_| panic!("replay with WEIRMQ_SEED={seed} WEIRMQ_SESSION_OPS={LIFE}"));
    }
    // A driver that delivers nothing proves nothing.
    assert!(finished > operations / 20, "{finished} deliveries in {operations} operations");
}
