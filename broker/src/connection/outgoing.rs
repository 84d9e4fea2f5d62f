//! The answers of one connection on their way out: what is written is let go of at once, with its room.
//!
//! Owned by `connection.rs`, which gathers answers that are ready and has them written together. A client must make
//! progress within `WRITE_TIMEOUT`, and take all of it at a least rate; one that reads slowly while others wait for long
//! for the room that its answers hold is ended sooner. Nothing is copied.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::Cause;
use crate::room::{self, Held};
use crate::router::{AnswerRoom, Sending};

/// Longest time that answers may make no progress.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// How often answers that hold room are looked at while the client does not read.
const LOOK: Duration = Duration::from_millis(100);

/// Pieces handed to the system in one call.
pub(super) const PIECES: usize = 64;

/// Less is not worth giving back before the whole answer is written.
const SHRINK_BYTES: usize = 64 << 10;

/// Answers that are written together.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pieces: VecDeque<Bytes>,
    answers: VecDeque<Unsent>,
    bytes: usize,
}

/// An answer that is not written yet, or not all of it.
#[derive(Debug)]
struct Unsent {
    /// Where it ends among the bytes of all.
    end: usize,
    room: AnswerRoom,
    _sending: Option<Box<Sending>>,
}

impl Outgoing {
    /// Adds an answer behind the others.
    pub(super) fn push(
        &mut self,
        pieces: Vec<Bytes>,
        room: AnswerRoom,
        sending: Option<Box<Sending>>,
    ) {
        self.bytes += pieces.iter().map(Bytes::len).sum::<usize>();
        self.pieces.extend(pieces);
        self.answers.push_back(Unsent {
            end: self.bytes,
            room,
            _sending: sending,
        });
    }

    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Writes everything, with as few system calls as there can be.
    pub(super) async fn write(
        mut self,
        write: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), Cause> {
        let began = Instant::now();
        let all = WRITE_TIMEOUT + room::slowest(self.bytes);
        let mut progress = began;
        // All bytes that are written, and those of them whose pieces are gone.
        let (mut written, mut gone) = (0, 0);
        loop {
            while let Some(first) = self.pieces.front()
                && written - gone >= first.len()
            {
                gone += first.len();
                self.pieces.pop_front();
            }
            self.let_go(written, gone);
            if self.pieces.is_empty() {
                return Ok(());
            }
            let holds = self.answers.iter().any(|unsent| unsent.room.is_some());
            let now = progress.duration_since(began);
            let left = (now + WRITE_TIMEOUT).min(all);
            let slices: Vec<IoSlice<'_>> = self
                .pieces
                .iter()
                .take(PIECES)
                .enumerate()
                .map(|(index, piece)| {
                    IoSlice::new(if index == 0 {
                        &piece[written - gone..]
                    } else {
                        piece
                    })
                })
                .collect();
            let count = loop {
                let taken = began.elapsed();
                let wanted = self.answers.iter().any(|unsent| unsent.room.is_wanted());
                if taken >= left || (wanted && room::is_slow(written, taken)) {
                    return Err("slow_reader");
                }
                let pause = left - taken;
                let pause = if holds { pause.min(LOOK) } else { pause };
                match timeout(pause, write.write_vectored(&slices)).await {
                    Err(_) => {}
                    Ok(Err(_) | Ok(0)) => return Err("write_error"),
                    Ok(Ok(count)) => break count,
                }
            };
            drop(slices);
            written += count;
            progress = Instant::now();
        }
    }

    /// Gives back what is no longer needed: a piece is held until its last byte is written.
    fn let_go(&mut self, written: usize, gone: usize) {
        while let Some(first) = self.answers.front_mut() {
            if first.end > written {
                first.room.shrink(first.end - gone);
                return;
            }
            self.answers.pop_front();
        }
    }
}

impl AnswerRoom {
    fn parts(&self) -> impl Iterator<Item = &Held> {
        self.batches.iter().chain(&self.frame)
    }

    fn is_some(&self) -> bool {
        self.parts().next().is_some()
    }

    fn is_wanted(&self) -> bool {
        self.parts().any(Held::is_wanted)
    }

    fn shrink(&mut self, unsent: usize) {
        if let Some(held) = &mut self.batches
            && held.bytes() >= unsent + SHRINK_BYTES
        {
            held.shrink(unsent);
        }
    }
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
