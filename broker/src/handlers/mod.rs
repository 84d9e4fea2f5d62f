//! What each API does: one file per group of APIs that share a vocabulary. A handler gets a `Ctx` and a decoded
//! request and gives a response; it never touches a socket, a clock of its own, or RocksDB.

pub mod acls;
pub mod api_versions;
pub mod configs;
pub mod fetch;
pub mod fetch_session;
pub mod group_offsets;
pub mod groups;
pub mod log_dirs;
pub mod metadata;
pub mod offsets;
pub mod produce;
pub mod producer_ids;
pub mod quotas;
mod refusal;
pub mod topics;

use ottla_protocol::error_code::ErrorCode;

/// Runs `work` off the async workers. A panic in it goes on in the caller, so that it ends the connection and is
/// counted like any other.
///
/// # Errors
/// The broker stops.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ErrorCode> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => ErrorCode::NotLeaderOrFollower,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "on purpose")]
    async fn a_panic_apart_is_a_panic_here() {
        let panicked: Result<(), _> = apart(|| panic!("on purpose")).await;
        unreachable!("{panicked:?}");
    }
}
