//! Gathers pieces of answers, those that lie in files among them, into one buffer, which goes to the socket in one call. The
//! copy costs less than it saves: a part of a file that is sent by itself (`sendfile`) is a call and several packets, and pages
//! that the receiver has to find one by one (docs/STORAGE.md). Used by `outgoing.rs`; it never waits for a disk that tells.

use std::cell::RefCell;

use ottla_protocol::fetch_response::Segment;
use ottla_storage::records::Records;

/// What is gathered at once: so much while a socket takes all of it, and no less than that.
pub(super) const MOST_BYTES: usize = 256 << 10;
const LEAST_BYTES: usize = 64 << 10;

/// Pieces that are looked at.
const PIECES: usize = 64;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gathered {
    /// So many bytes are in the buffer.
    Bytes(usize),
    /// The very next byte is not in memory.
    OnDisk,
    /// It cannot be read, or the file ends before it.
    Unreadable,
}

/// How much a socket is likely to take: what it does not is gathered again.
#[derive(Debug)]
pub(super) struct Appetite(usize);

impl Default for Appetite {
    fn default() -> Self {
        Self(MOST_BYTES)
    }
}

impl Appetite {
    pub(super) fn bytes(&self) -> usize {
        self.0
    }

    /// It took `taken` of the `offered` bytes.
    pub(super) fn took(&mut self, taken: usize, offered: usize) {
        let likely = if taken < offered { taken } else { 2 * self.0 };
        self.0 = likely.clamp(LEAST_BYTES, MOST_BYTES);
    }
}

/// Whether parts of files are among what can be gathered at once, and it does not begin with much that is in memory.
pub(super) fn is_worth_it<'p>(pieces: impl Iterator<Item = &'p Records>) -> bool {
    let mut bytes = 0;
    for piece in pieces.take(PIECES) {
        if matches!(piece, Records::File(_)) {
            return true;
        }
        bytes += piece.size();
        if bytes >= MOST_BYTES {
            break;
        }
    }
    false
}

/// Calls `with` with so many bytes of the buffer of this thread, `MOST_BYTES` at the most.
pub(super) fn with_buffer<T>(bytes: usize, with: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(MOST_BYTES, 0);
        with(&mut buffer[..bytes])
    })
}

/// Fills `buffer` with `pieces`, but for the first `from` bytes, as far as they are in memory and there is place. `brought`
/// are the first bytes of that, in case that they left the memory again.
pub(super) fn gather<'p>(
    pieces: impl Iterator<Item = &'p Records>,
    from: usize,
    brought: &[u8],
    buffer: &mut [u8],
) -> Gathered {
    let (mut filled, mut from) = (0, from);
    for piece in pieces {
        let place = &mut buffer[filled..];
        if place.is_empty() {
            break;
        }
        let wanted = (piece.size() - from).min(place.len());
        let place = &mut place[..wanted];
        let copied = match piece {
            Records::Memory(bytes) => {
                place.copy_from_slice(&bytes[from..from + wanted]);
                wanted
            }
            Records::File(file) => match file.read_in_memory(from, place) {
                Ok(read) => read,
                Err(_) if filled == 0 => return Gathered::Unreadable,
                // Whoever goes on from there will see.
                Err(_) => break,
            },
        };
        filled += copied;
        if copied < wanted {
            break;
        }
        from = 0;
    }
    if filled == 0 {
        filled = brought.len().min(buffer.len());
        buffer[..filled].copy_from_slice(&brought[..filled]);
    }
    match filled {
        0 => Gathered::OnDisk,
        filled => Gathered::Bytes(filled),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use bytes::Bytes;
    use ottla_storage::directory::TempDir;
    use ottla_storage::records::{FileRecords, StoredFile};

    use super::*;

    fn stored(dir: &TempDir, bytes: &[u8]) -> Arc<StoredFile> {
        let path = dir.path().join("stored");
        std::fs::write(&path, bytes).expect("writes");
        Arc::new(StoredFile::new(File::open(&path).expect("opens"), || {}))
    }

    fn part(file: &Arc<StoredFile>, position: usize, size: usize) -> Records {
        Records::File(FileRecords {
            file: file.clone(),
            position: position as u64,
            size,
        })
    }

    #[test]
    fn pieces_follow_each_other_from_anywhere_on_as_far_as_there_is_place() {
        let seed = 8;
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bytes = vec![0; 10_000];
        rng.fill(&mut bytes);
        let dir = TempDir::new("gathered");
        let file = stored(&dir, &bytes);
        for _ in 0..2_000 {
            let mut expected = Vec::new();
            let pieces: Vec<Records> = (0..rng.usize(1..6))
                .map(|index| {
                    let size = rng.usize(usize::from(index == 0)..300);
                    let at = rng.usize(0..bytes.len() - size);
                    expected.extend_from_slice(&bytes[at..at + size]);
                    match rng.bool() {
                        true => part(&file, at, size),
                        false => Records::Memory(Bytes::copy_from_slice(&bytes[at..at + size])),
                    }
                })
                .collect();
            let from = rng.usize(0..pieces[0].size());
            let mut buffer = vec![0; rng.usize(1..1_000)];
            let count = buffer.len().min(expected.len() - from);
            let gathered = gather(pieces.iter(), from, &[], &mut buffer);
            assert_eq!(gathered, Gathered::Bytes(count));
            assert_eq!(buffer[..count], expected[from..from + count]);
        }
    }

    #[test]
    fn what_comes_before_the_unreadable_is_gathered() {
        let dir = TempDir::new("gathered-short");
        let file = stored(&dir, &[1; 100]);
        let pieces = [part(&file, 0, 100), part(&file, 50, 60), part(&file, 0, 9)];
        let buffer = &mut [0; 1_000];
        assert_eq!(gather(pieces.iter(), 0, &[], buffer), Gathered::Bytes(150));
        assert_eq!(
            gather(pieces[1..].iter(), 49, &[], buffer),
            Gathered::Bytes(1)
        );
        assert_eq!(
            gather(pieces[1..].iter(), 50, &[], buffer),
            Gathered::Unreadable
        );
    }

    #[test]
    fn what_left_the_memory_is_not_waited_for_and_goes_out_as_it_was_brought() {
        let bytes: Vec<u8> = (0..1 << 20).map(|at: usize| (at % 251) as u8).collect();
        let dir = TempDir::on_disk("gathered-cold");
        let file = stored(&dir, &bytes);
        file.sync_all().expect("syncs");
        let pieces = [
            Records::Memory(vec![7; 10].into()),
            part(&file, 9, 1_000_000),
        ];
        let buffer = &mut [0; 1_000];
        let forget = || {
            let forgets = rustix::fs::Advice::DontNeed;
            rustix::fs::fadvise(&**file, 0, None, forgets).expect("forgets");
        };
        // A look has the system bring what it looks for, so that each one needs a new start.
        let cold = (0..10).any(|_| {
            forget();
            gather(pieces[1..].iter(), 5, &[], buffer) == Gathered::OnDisk
        });
        if !cold {
            let mut byte = [0];
            let byte = &mut [std::io::IoSliceMut::new(&mut byte)];
            let nowait = rustix::io::ReadWriteFlags::NOWAIT;
            let tells = rustix::io::preadv2(&**file, byte, 0, nowait);
            assert_eq!(tells, Err(rustix::io::Errno::OPNOTSUPP));
            return;
        }
        let before = (0..10).any(|_| {
            forget();
            gather(pieces.iter(), 0, &[], buffer) == Gathered::Bytes(10)
        });
        assert!(before, "what is in memory goes first");
        let brought = (0..10).any(|_| {
            forget();
            gather(pieces[1..].iter(), 5, &bytes[14..114], buffer) == Gathered::Bytes(100)
        });
        assert!(brought && buffer[..100] == bytes[14..114]);
        assert_eq!(
            gather(pieces[1..].iter(), 5, &bytes[14..], buffer),
            Gathered::Bytes(1_000)
        );
        assert_eq!(buffer[..], bytes[14..1_014]);
    }

    #[test]
    fn a_socket_that_takes_little_is_offered_little_and_soon_more_again() {
        let mut appetite = Appetite::default();
        assert_eq!(appetite.bytes(), MOST_BYTES);
        appetite.took(MOST_BYTES, MOST_BYTES);
        assert_eq!(appetite.bytes(), MOST_BYTES);
        appetite.took(100_000, MOST_BYTES);
        assert_eq!(appetite.bytes(), 100_000);
        appetite.took(1, 100_000);
        assert_eq!(appetite.bytes(), LEAST_BYTES);
        // The end of an answer says nothing against more.
        appetite.took(5, 5);
        assert_eq!(appetite.bytes(), 2 * LEAST_BYTES);
        appetite.took(2 * LEAST_BYTES, 2 * LEAST_BYTES);
        appetite.took(4 * LEAST_BYTES, 4 * LEAST_BYTES);
        assert_eq!(appetite.bytes(), MOST_BYTES);
    }

    #[test]
    fn what_is_in_memory_is_gathered_only_with_parts_of_files_soon_behind() {
        let dir = TempDir::new("gathered-worth");
        let file = part(&stored(&dir, &[1; 100]), 0, 100);
        let of = |size| Records::Memory(vec![0; size].into());
        assert!(is_worth_it([&file].into_iter()));
        assert!(is_worth_it([&of(MOST_BYTES - 1), &file].into_iter()));
        assert!(!is_worth_it([&of(MOST_BYTES), &file].into_iter()));
        assert!(!is_worth_it([&of(1), &of(2)].into_iter()));
        let many = vec![of(1); PIECES];
        assert!(!is_worth_it(many.iter().chain([&file])));
        assert!(is_worth_it(many[1..].iter().chain([&file])));
    }
}
