//! Memory that requests, and answers read from the disk, may use at a time over all connections; each has a `Room` of
//! its own, a share of `memory.budget.bytes`. Whoever needs some waits for it here, and gives it back by dropping what it
//! got. It counts and allocates nothing.

use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Less is not worth an answer: whoever wants more gets this much at least, and waits for it.
const LEAST_BYTES: usize = 64 << 10;

/// Of what is free, one that can do with less gets no more than this part, so that something is left for the next.
const PART: u32 = 4;

/// So many bytes, counted in kibibytes.
#[derive(Debug, Clone)]
pub struct Room {
    free: Arc<Semaphore>,
    kib: u32,
}

/// A part of a room; dropping it gives it back.
#[derive(Debug)]
pub struct Held {
    permit: OwnedSemaphorePermit,
}

impl Held {
    /// How much it is, in bytes.
    pub fn bytes(&self) -> usize {
        self.permit.num_permits() * 1024
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
        }
    }

    /// Waits for room for `bytes`. Whoever needs more than all takes all.
    ///
    /// # Errors
    /// Only that the broker shuts down.
    pub async fn take(&self, bytes: usize) -> Result<Held, AcquireError> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let kib = kib.clamp(1, self.kib);
        let permit = self.free.clone().acquire_many_owned(kib).await?;
        Ok(Held { permit })
    }

    /// Adds to what is held, if anything is, until it is room for `bytes`, or all there is.
    ///
    /// # Errors
    /// Only that the broker shuts down.
    pub async fn top_up(&self, held: &mut Option<Held>, bytes: usize) -> Result<(), AcquireError> {
        let wanted = bytes.min(self.kib as usize * 1024);
        let missing = wanted.saturating_sub(held.as_ref().map_or(0, Held::bytes));
        if missing > 0 {
            let more = self.take(missing).await?;
            match held {
                Some(held) => held.add(more),
                None => *held = Some(more),
            }
        }
        Ok(())
    }

    /// Takes room for at most `wanted` bytes, and tells for how many: less when little is free.
    ///
    /// # Errors
    /// Only that the broker shuts down.
    pub async fn take_some(&self, wanted: usize) -> Result<(Held, usize), AcquireError> {
        let free = u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX);
        let some = wanted.min((free / PART) as usize * 1024).max(LEAST_BYTES);
        let bytes = some.min(wanted);
        Ok((self.take(bytes).await?, bytes))
    }
}

/// Frames above this size are large: more than a batch of the usual limit takes.
const LARGE_BYTES: usize = 2 << 20;

/// Room for requests. Large ones have a half of their own, so that whoever announces some and sends slowly holds up
/// nobody else.
#[derive(Debug)]
pub struct Requests {
    usual: Room,
    large: Room,
}

impl Requests {
    /// Room for requests of `bytes` together.
    pub fn new(bytes: usize) -> Self {
        Self {
            usual: Room::new(bytes / 2),
            large: Room::new(bytes / 2),
        }
    }

    /// The room that a frame of `bytes`, its size included, needs a part of.
    pub fn of(&self, bytes: usize) -> &Room {
        if bytes > LARGE_BYTES {
            &self.large
        } else {
            &self.usual
        }
    }
}

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
        room.top_up(&mut held, 3 << 10).await.expect("open");
        room.top_up(&mut held, 2 << 10).await.expect("open");
        assert_eq!(held.as_ref().map(Held::bytes), Some(3 << 10));
        room.top_up(&mut held, 1 << 30).await.expect("all there is");
        assert_eq!(held.as_ref().map(Held::bytes), Some(10 << 10));
        assert!(room.take(1).now_or_never().is_none());
        drop(held);
        assert!(room.take(10 << 10).now_or_never().is_some());
    }

    #[tokio::test]
    async fn large_requests_leave_room_for_others() {
        let requests = Requests::new(16 << 20);
        let large = requests.of(100 << 20).take(100 << 20).await.expect("open");
        assert_eq!(large.bytes(), 8 << 20);
        assert!(requests.of(3 << 20).take(1).now_or_never().is_none());
        let usual = requests.of(2 << 20).take(2 << 20).now_or_never();
        assert!(usual.is_some());
    }

    #[tokio::test]
    async fn who_can_do_with_less_leaves_something_to_others() {
        let room = Room::new(64 << 20);
        let mut all = Vec::new();
        let mut last = usize::MAX;
        for _ in 0..20 {
            let (held, bytes) = room.take_some(50 << 20).await.expect("open");
            assert!(
                bytes <= last && bytes >= LEAST_BYTES,
                "{bytes} after {last}"
            );
            last = bytes;
            all.push(held);
        }
        assert!(last < 1 << 20);
        let (_held, bytes) = room.take_some(1_000).await.expect("open");
        assert_eq!(bytes, 1_000, "no more than wanted");
        drop(all);
        let (mut held, bytes) = room.take_some(50 << 20).await.expect("open");
        assert!(bytes >= 15 << 20, "{bytes}");
        held.shrink(1_025);
        assert!(room.take((64 << 20) - (2 << 10)).now_or_never().is_none());
        assert!(room.take((63 << 20) - (3 << 10)).now_or_never().is_some());
    }
}
