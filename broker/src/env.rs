//! What the broker asks the machine for: time, chance and fresh ids. The only file that does.
//!
//! Everything else gets these as arguments, so that tests can hold the clock in their hand.

use std::time::{Duration, Instant};

use uuid::Uuid;

/// The machine, as far as time and chance go.
#[derive(Debug, Clone, Copy)]
pub struct Env {
    origin: Instant,
}

impl Env {
    /// The real machine.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that reads the clock"
    )]
    pub fn system() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// Wall clock, milliseconds since 1970; 0 on a machine that believes to live before that.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that reads the clock"
    )]
    pub fn now_ms(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
    }

    /// Time since this `Env` was made; never goes back.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that reads the clock"
    )]
    pub fn monotonic(&self) -> Duration {
        Instant::now().saturating_duration_since(self.origin)
    }

    /// 64 random bits from the operating system.
    ///
    /// # Panics
    /// When the system has no randomness to give: ids would collide.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that asks for chance"
    )]
    pub fn random_u64(&self) -> u64 {
        getrandom::u64().expect("the operating system gives random bits")
    }

    /// A fresh UUID of version 4 whose base64 form does not begin with a dash, which tools would take for an
    /// option (Kafka's `Uuid.randomUuid`).
    pub fn uuid(&self) -> Uuid {
        loop {
            let bits = (u128::from(self.random_u64()) << 64) | u128::from(self.random_u64());
            let uuid = uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid();
            if !kafka_uuid(&uuid).starts_with('-') {
                return uuid;
            }
        }
    }
}

impl ottla_storage::log::Clock for Env {
    fn now_ms(&self) -> i64 {
        Env::now_ms(self)
    }

    fn monotonic(&self) -> Duration {
        Env::monotonic(self)
    }
}

/// A UUID as Kafka prints it: 22 characters of URL-safe base64 without padding.
pub fn kafka_uuid(uuid: &Uuid) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(uuid.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_fresh_and_printable() {
        let env = Env::system();
        let ids: std::collections::HashSet<_> = (0..1_000).map(|_| env.uuid()).collect();
        assert_eq!(ids.len(), 1_000);
        for id in ids {
            assert_eq!(id.get_version_num(), 4);
            let text = kafka_uuid(&id);
            assert_eq!(text.len(), 22);
            assert!(!text.starts_with('-'));
        }
    }

    #[test]
    fn time_goes_on() {
        let env = Env::system();
        let before = env.monotonic();
        assert!(env.monotonic() >= before);
        assert!(env.now_ms() > 1_600_000_000_000);
    }
}
