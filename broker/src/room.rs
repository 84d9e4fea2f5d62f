//! Memory that requests and answers may use at a time over all connections; each kind has a `Room` of its own, a share
//! of `memory.budget.bytes`. Whoever needs some waits for it here, and gives it back by dropping what it got. It counts
//! and allocates nothing.
//!
//! Invariant: whoever holds room gives it back without waiting for room of the same kind. Who keeps some only because a
//! client sends or reads slowly asks `Held::is_wanted`, and ends that client (`is_slow`) when others wait for long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ottla_protocol::frame;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Less is not worth an answer: whoever wants more gets this much at least, and waits for it. As much may be held without
/// asking, for answers that are mostly small.
pub const LEAST_BYTES: usize = 64 << 10;

/// Of what is free, one that can do with less gets no more than this part, so that something is left for the next.
const PART: u32 = 4;

/// Whoever waits for longer has those ended who hold room for a slow client.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a client is given to begin with, before it counts as slow.
pub const GRACE: Duration = Duration::from_secs(1);

/// A client that sends or reads less, in bytes per second, is slow: two megabits.
const LEAST_RATE: u64 = 256 << 10;

/// Whether a client that has moved `bytes` in `taken` is too slow to hold room that others wait for.
pub fn is_slow(bytes: usize, taken: Duration) -> bool {
    let wanted = taken.saturating_sub(GRACE).as_millis() * u128::from(LEAST_RATE) / 1000;
    taken >= GRACE && (bytes as u128) <= wanted
}

/// How long `bytes` take at the lowest rate.
pub fn slowest(bytes: usize) -> Duration {
    Duration::from_millis((bytes as u64).saturating_mul(1000) / LEAST_RATE)
}

/// So many bytes, counted in kibibytes.
#[derive(Debug, Clone)]
pub struct Room {
    free: Arc<Semaphore>,
    kib: u32,
    /// How many have waited for longer than `PATIENCE`.
    starving: Arc<AtomicUsize>,
}

/// A part of a room; dropping it gives it back.
#[derive(Debug)]
pub struct Held {
    permit: OwnedSemaphorePermit,
    starving: Arc<AtomicUsize>,
}

/// One who waits for long, until it is dropped.
struct Starving<'a>(&'a AtomicUsize);

impl<'a> Starving<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Starving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Held {
    /// How much it is, in bytes.
    pub fn bytes(&self) -> usize {
        self.permit.num_permits() * 1024
    }

    /// Whether somebody has waited for long for room of this kind.
    pub fn is_wanted(&self) -> bool {
        self.starving.load(Ordering::Relaxed) > 0
    }

    /// Adds another part of the same room.
    pub fn add(&mut self, other: Held) {
        self.permit.merge(other.permit);
    }

    /// Gives back what is more than `bytes` need.
    pub fn shrink(&mut self, bytes: usize) {
        let needed = bytes.div_ceil(1024);
        let excess = self.permit.num_permits().saturating_sub(needed);
        drop(self.permit.split(excess));
    }
}

impl Room {
    /// A room of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).max(1);
        Self {
            free: Arc::new(Semaphore::new(kib as usize)),
            kib,
            starving: Arc::default(),
        }
    }

    fn kib_of(&self, bytes: usize) -> u32 {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        kib.clamp(1, self.kib)
    }

    fn held(&self, permit: OwnedSemaphorePermit) -> Held {
        Held {
            permit,
            starving: self.starving.clone(),
        }
    }

    /// Room for `bytes`, if it is there and nobody waits for it. Whoever needs more than all takes all.
    pub fn take_now(&self, bytes: usize) -> Option<Held> {
        let free = self.free.clone();
        let permit = free.try_acquire_many_owned(self.kib_of(bytes)).ok()?;
        Some(self.held(permit))
    }

    /// Waits for room for `bytes`, in the order of those who wait. Whoever needs more than all takes all.
    ///
    /// # Errors
    /// Only that the broker shuts down.
    pub async fn take(&self, bytes: usize) -> Result<Held, AcquireError> {
        if let Some(held) = self.take_now(bytes) {
            return Ok(held);
        }
        // Apart, so that those who need not wait are no larger for it.
        Box::pin(self.wait(self.kib_of(bytes))).await
    }

    async fn wait(&self, kib: u32) -> Result<Held, AcquireError> {
        let free = self.free.clone();
        let mut acquired = std::pin::pin!(free.acquire_many_owned(kib));
        let permit = match timeout(PATIENCE, &mut acquired).await {
            Ok(permit) => permit?,
            Err(_) => {
                let _starving = Starving::new(&self.starving);
                acquired.await?
            }
        };
        Ok(self.held(permit))
    }

    /// Adds to what is held, if anything is, until it is room for `bytes`, or all there is; `None` when `within` is over.
    ///
    /// # Errors
    /// Only that the broker shuts down.
    pub async fn top_up(
        &self,
        held: &mut Option<Held>,
        bytes: usize,
        within: Duration,
    ) -> Result<Option<()>, AcquireError> {
        let wanted = bytes.min(self.kib as usize * 1024);
        let missing = wanted.saturating_sub(held.as_ref().map_or(0, Held::bytes));
        if missing == 0 {
            return Ok(Some(()));
        }
        let more = match self.take_now(missing) {
            Some(more) => more,
            None => match Box::pin(timeout(within, self.take(missing))).await {
                Ok(more) => more?,
                Err(_) => return Ok(None),
            },
        };
        match held {
            Some(held) => held.add(more),
            None => *held = Some(more),
        }
        Ok(Some(()))
    }

    /// For how many of `wanted` bytes one should ask who can do with less: for less when little is free.
    pub fn some_of(&self, wanted: usize) -> usize {
        wanted.min(self.part().max(LEAST_BYTES))
    }

    fn part(&self) -> usize {
        let free = u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX);
        (free / PART) as usize * 1024
    }
}

/// Frames above this size are large: more than a batch of the usual limit takes.
const LARGE_BYTES: usize = 2 << 20;

/// Room for requests by their size, so that whoever announces much and sends slowly holds up nobody with less.
#[derive(Debug)]
pub struct Requests {
    /// Those that are read whole before they ask: what is held of them always moves on.
    small: Room,
    usual: Room,
    large: Room,
}

impl Requests {
    /// Room for requests of `bytes` together.
    pub fn new(bytes: usize) -> Self {
        Self {
            small: Room::new(bytes / 4),
            usual: Room::new(bytes * 3 / 8),
            large: Room::new(bytes * 3 / 8),
        }
    }

    /// The room that a frame of `bytes`, its size included, needs a part of.
    pub fn of(&self, bytes: usize) -> &Room {
        if bytes > LARGE_BYTES {
            &self.large
        } else if bytes > frame::FREE {
            &self.usual
        } else {
            &self.small
        }
    }
}

/// How long an answer that is there may wait for its room.
const REPLY_PATIENCE: Duration = Duration::from_secs(5);

/// Room for answers above `LEAST_BYTES` that are made in one piece. How large one is shows only once it is there, so
/// those that wait are counted as well, and one for which there is no place to wait is dropped with its connection.
#[derive(Debug)]
pub struct Replies {
    sent: Room,
    waiting: Room,
}

impl Replies {
    /// Room for answers of `bytes` together.
    pub fn new(bytes: usize) -> Self {
        Self {
            sent: Room::new(bytes / 2),
            waiting: Room::new(bytes / 2),
        }
    }

    /// Room until an answer of `bytes` is sent; nothing where it is small.
    ///
    /// # Errors
    /// There is none, and the answer is to be dropped.
    pub async fn admit(&self, bytes: usize) -> Result<Option<Held>, NoRoom> {
        if bytes <= LEAST_BYTES {
            return Ok(None);
        }
        if let Some(held) = self.sent.take_now(bytes) {
            return Ok(Some(held));
        }
        let _waits = self.waiting.take_now(bytes).ok_or(NoRoom)?;
        match Box::pin(timeout(REPLY_PATIENCE, self.sent.take(bytes))).await {
            Ok(Ok(held)) => Ok(Some(held)),
            Ok(Err(_)) | Err(_) => Err(NoRoom),
        }
    }
}

/// There is no room for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_needs_more_than_all_takes_all_and_the_next_one_waits() {
        let room = Room::new(10 << 10);
        let held = room.take(1 << 30).await.expect("open");
        assert!(room.take(1).now_or_never().is_none());
        drop(held);
        assert!(room.take(10 << 10).now_or_never().is_some());
    }

    #[tokio::test]
    async fn what_is_held_counts_for_what_is_needed() {
        let room = Room::new(10 << 10);
        let mut held = None;
        room.top_up(&mut held, 3 << 10, PATIENCE)
            .await
            .expect("open");
        room.top_up(&mut held, 2 << 10, PATIENCE)
            .await
            .expect("open");
        assert_eq!(held.as_ref().map(Held::bytes), Some(3 << 10));
        room.top_up(&mut held, 1 << 30, PATIENCE)
            .await
            .expect("all there is");
        assert_eq!(held.as_ref().map(Held::bytes), Some(10 << 10));
        assert!(room.take(1).now_or_never().is_none());
        drop(held);
        assert!(room.take(10 << 10).now_or_never().is_some());
    }

    #[tokio::test]
    async fn each_size_of_requests_leaves_room_for_the_others() {
        let requests = Requests::new(16 << 20);
        let large = requests.of(100 << 20).take(100 << 20).await.expect("open");
        assert_eq!(large.bytes(), 6 << 20);
        assert!(requests.of(3 << 20).take(1).now_or_never().is_none());
        let usual = requests.of(2 << 20).take(10 << 20).now_or_never();
        assert_eq!(usual.expect("room").expect("open").bytes(), 6 << 20);
        let small = requests.of(frame::FREE).take(10 << 20).now_or_never();
        assert_eq!(small.expect("room").expect("open").bytes(), 4 << 20);
    }

    #[tokio::test]
    async fn who_can_do_with_less_leaves_something_to_others() {
        let room = Room::new(64 << 20);
        let mut all = Vec::new();
        let mut last = usize::MAX;
        for _ in 0..20 {
            let bytes = room.some_of(50 << 20);
            assert!(
                bytes <= last && bytes >= LEAST_BYTES,
                "{bytes} after {last}"
            );
            last = bytes;
            all.push(room.take(bytes).await.expect("open"));
        }
        assert!(last < 1 << 20);
        assert_eq!(room.some_of(1_000), 1_000, "no more than wanted");
        drop(all);
        assert!(room.some_of(50 << 20) >= 15 << 20);
        let mut held = room.take_now(15 << 20).expect("a part");
        held.shrink(1_025);
        assert!(room.take((64 << 20) - (2 << 10)).now_or_never().is_some());
        assert!(room.take((64 << 20) - (1 << 10)).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_waits_for_long_wants_what_others_hold() {
        let room = Room::new(10 << 10);
        let held = room.take(10 << 10).await.expect("open");
        let mut waits = Box::pin(room.take(1));
        assert!(timeout(PATIENCE / 2, &mut waits).await.is_err());
        assert!(!held.is_wanted());
        assert!(timeout(PATIENCE, &mut waits).await.is_err());
        assert!(held.is_wanted());
        drop(waits);
        assert!(!held.is_wanted(), "it gave up");
        let waits = room.take(1);
        drop(held);
        assert!(!waits.await.expect("open").is_wanted());
    }

    #[test]
    fn a_client_is_slow_below_the_least_rate_and_never_at_first() {
        let second = Duration::from_secs(1);
        assert!(!is_slow(0, second / 2));
        assert!(is_slow(0, second));
        assert!(!is_slow(1, second));
        assert!(is_slow(256 << 10, 2 * second));
        assert!(!is_slow((256 << 10) + 1, 2 * second));
        assert_eq!(slowest(1 << 20), 4 * second);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_reply_waits_for_a_while_and_no_more_of_them_than_there_is_place() {
        let replies = Replies::new(4 << 20);
        assert!(
            replies
                .admit(LEAST_BYTES)
                .await
                .is_ok_and(|held| held.is_none())
        );
        let first = replies.admit(2 << 20).await.expect("room");
        let mut second = Box::pin(replies.admit(2 << 20));
        assert!(second.as_mut().now_or_never().is_none(), "it waits");
        let third = replies.admit(1 << 20).now_or_never();
        assert_eq!(third.expect("at once").err(), Some(NoRoom));
        drop(first);
        let second = second.await.expect("room");
        assert!(second.is_some());
        let late = timeout(2 * REPLY_PATIENCE, replies.admit(2 << 20)).await;
        assert_eq!(late.expect("it gives up").err(), Some(NoRoom));
        drop(second);
        assert!(replies.admit(2 << 20).now_or_never().is_some());
    }
}
