//! The answers of one connection on their way out: what is written is let go of, with its room, as soon as the client
//! keeps them waiting. Sooner would cost more than it gains: memory that goes in pieces is mapped anew for the next answer.
//!
//! Owned by `connection.rs`, which gathers answers that are ready and has them written together. A client must make
//! progress within `WRITE_TIMEOUT`, and take all of it at a least rate; one that reads slowly while others wait for long
//! for the room that its answers hold, or for the disk that a deleted file takes, is ended sooner. What lies in files is
//! gathered, each time the socket takes something, into a buffer of the thread (`outgoing/gathered.rs`): it takes no memory
//! while a client is waited for. A thread apart reads what is not in memory any more, so that no connection waits for the disk
//! of another one.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::IoSlice;
use std::ops::RangeBounds;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ottla_protocol::fetch_response::Segment;
use ottla_storage::records::{FileRecords, Records};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use self::bringing::Bringing;
use self::gathered::{Appetite, Gathered};
pub(super) use self::giving_way::GivingWay;
use self::socket::Socket;
use super::Cause;
use crate::room::{self, Held};
use crate::router::{AnswerRoom, Sending};

mod bringing;
mod gathered;
mod giving_way;
mod socket;

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
    pieces: VecDeque<Records>,
    answers: VecDeque<Unsent>,
    bytes: usize,
    bringing: Bringing,
    /// What was read last and may have left the memory again: what follows the bytes that are written.
    brought: Vec<u8>,
    appetite: Appetite,
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
        pieces: Vec<Records>,
        room: AnswerRoom,
        sending: Option<Box<Sending>>,
    ) {
        self.bytes += pieces.iter().map(Segment::size).sum::<usize>();
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
        socket: &mut impl Socket,
        giving_way: &mut GivingWay,
    ) -> Result<(), Cause> {
        let began = Instant::now();
        let all = WRITE_TIMEOUT + room::slowest(self.bytes);
        let mut progress = began;
        let mut written = 0;
        // The first piece that is not written, and where it begins.
        let (mut first, mut start) = (0, 0);
        loop {
            while let Some(piece) = self.pieces.get(first)
                && written - start >= piece.size()
            {
                start += piece.size();
                first += 1;
            }
            if first == self.pieces.len() {
                return Ok(());
            }
            let left = (progress.duration_since(began) + WRITE_TIMEOUT).min(all);
            let count = loop {
                let taken = began.elapsed();
                let slow = room::is_slow(written, taken.saturating_sub(self.bringing.time()));
                if taken >= left || (slow && self.others_want(first)) {
                    return Err("slow_reader");
                }
                let holds = self.answers.iter().any(|unsent| unsent.room.is_some())
                    || self.files(first..).next().is_some();
                let pause = left - taken;
                let pause = if holds { pause.min(LOOK) } else { pause };
                let next = timeout(pause, self.write_some(socket, first, written - start));
                match next.await {
                    Ok(Err(Failed::Socket)) => return Err("write_error"),
                    Ok(Err(Failed::Store)) => return Err("store_error"),
                    Ok(Ok(count)) => break count,
                    Err(_) => {
                        self.forget(first);
                        first = 0;
                        self.let_go(written, start);
                    }
                }
            };
            written += count;
            progress = Instant::now();
            giving_way.wrote(count, progress).await;
        }
    }

    /// Writes what the socket takes from piece `first` on, of which `from` bytes are written.
    async fn write_some(
        &mut self,
        socket: &mut impl Socket,
        first: usize,
        from: usize,
    ) -> Result<usize, Failed> {
        if gathered::is_worth_it(self.pieces.range(first..)) {
            return self.write_gathered(socket, first, from).await;
        }
        let in_memory = self.pieces.range(first..).map_while(|piece| match piece {
            Records::Memory(bytes) => Some(bytes),
            Records::File(_) => None,
        });
        let slices: Vec<IoSlice<'_>> = in_memory
            .take(PIECES)
            .enumerate()
            .map(|(index, bytes)| IoSlice::new(&bytes[if index == 0 { from } else { 0 }..]))
            .collect();
        match socket.write_vectored(&slices).await {
            Ok(0) | Err(_) => Err(Failed::Socket),
            Ok(count) => Ok(count),
        }
    }

    /// The same where parts of files are among it. Nothing is read for a client that takes nothing.
    async fn write_gathered(
        &mut self,
        socket: &mut impl Socket,
        first: usize,
        from: usize,
    ) -> Result<usize, Failed> {
        loop {
            if !self.bringing.is_under_way() {
                let sent = poll_fn(|cx| self.poll_gathered(socket, (first, from), cx)).await?;
                if let Some(count) = sent {
                    self.brought.clear();
                    return Ok(count);
                }
            }
            let Some(Records::File(file)) = self.pieces.get(first) else {
                unreachable!("only a part of a file can be on the disk");
            };
            let to = file.size.min(from + gathered::MOST_BYTES);
            self.brought = match self.bringing.bring(file, from, to).await {
                Ok(bytes) => bytes,
                Err(_) => return Err(self.doubt(first)),
            };
        }
    }

    /// Gathers and sends once the socket takes something; `None` where the very next byte is not in memory.
    fn poll_gathered(
        &mut self,
        socket: &mut impl Socket,
        (first, from): (usize, usize),
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<usize>, Failed>> {
        if ready!(socket.poll_ready(cx)).is_err() {
            return Poll::Ready(Err(Failed::Socket));
        }
        gathered::with_buffer(self.appetite.bytes(), |buffer| {
            match gathered::gather(self.pieces.range(first..), from, &self.brought, buffer) {
                Gathered::OnDisk => Poll::Ready(Ok(None)),
                Gathered::Unreadable => Poll::Ready(Err(self.doubt(first))),
                Gathered::Bytes(count) => {
                    match ready!(Pin::new(socket).poll_write(cx, &buffer[..count])) {
                        Ok(0) | Err(_) => Poll::Ready(Err(Failed::Socket)),
                        Ok(taken) => {
                            self.appetite.took(taken, count);
                            Poll::Ready(Ok(Some(taken)))
                        }
                    }
                }
            }
        })
    }

    /// What piece `first` is a part of cannot be read: the next fetch is told where.
    fn doubt(&self, first: usize) -> Failed {
        for file in self.files(first..=first) {
            file.doubt();
        }
        Failed::Store
    }

    /// The parts of files among these pieces.
    fn files(&self, pieces: impl RangeBounds<usize>) -> impl Iterator<Item = &FileRecords> {
        self.pieces.range(pieces).filter_map(|piece| match piece {
            Records::File(file) => Some(file),
            Records::Memory(_) => None,
        })
    }

    /// Whether somebody waits for what these answers hold: for room, or for the disk that a deleted file still takes.
    fn others_want(&self, first: usize) -> bool {
        let wanted = self.answers.iter().any(|unsent| unsent.room.is_wanted());
        wanted || self.each_file(first..).any(FileRecords::is_given_up)
    }

    /// The parts of files among these pieces, of those that follow each other in one file the first.
    fn each_file(&self, pieces: impl RangeBounds<usize>) -> impl Iterator<Item = &FileRecords> {
        let mut last = None;
        self.files(pieces).filter(move |part| {
            let file = Arc::as_ptr(&part.file);
            last.replace(file) != Some(file)
        })
    }

    /// Lets go of the first `count` pieces. Whoever closes a deleted file last waits until the disk has its room back: a
    /// thread apart.
    fn forget(&mut self, count: usize) {
        let deleted = self.each_file(..count).any(FileRecords::is_given_up);
        let pieces = self.pieces.drain(..count);
        if deleted && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let pieces: Vec<Records> = pieces.collect();
            drop(runtime.spawn_blocking(move || drop(pieces)));
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

/// What went wrong with an answer on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failed {
    /// The client is not there any more.
    Socket,
    /// What is stored cannot be read, or ends too early. The next fetch checks it again and is told where.
    Store,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.forget(self.pieces.len());
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
