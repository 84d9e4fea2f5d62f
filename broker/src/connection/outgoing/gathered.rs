//! Gathers pieces of answers, those that lie in files among them, into one buffer, which goes to the socket in one call. The
//! copy costs less than it saves: a part of a file that is sent by itself (`sendfile`) is a call and several packets, and pages
//! that the receiver has to find one by one (docs/STORAGE.md). Used by `outgoing.rs`; it never waits for a disk that tells.

use std::cell::RefCell;

use ottla_protocol::fetch_response::Segment;
use ottla_storage::records::Records;

/// What is gathered at once.
pub(super) const BYTES: usize = 256 << 10;

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

/// Whether parts of files are among what can be gathered at once, and it does not begin with much that is in memory.
pub(super) fn is_worth_it<'p>(pieces: impl Iterator<Item = &'p Records>) -> bool {
    let mut bytes = 0;
    for piece in pieces.take(PIECES) {
        if matches!(piece, Records::File(_)) {
            return true;
        }
        bytes += piece.size();
        if bytes >= BYTES {
            break;
        }
    }
    false
}

/// Calls `with` with the buffer of this thread.
pub(super) fn with_buffer<T>(with: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(BYTES, 0);
        with(buffer)
    })
}

/// Fills `buffer` with `pieces`, but for the first `from` bytes, as far as they are in memory and there is place.
pub(super) fn gather<'p>(
    pieces: impl Iterator<Item = &'p Records>,
    from: usize,
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
        Gathered::OnDisk
    } else {
        Gathered::Bytes(filled)
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
            let gathered = gather(pieces.iter(), from, &mut buffer);
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
        assert_eq!(gather(pieces.iter(), 0, buffer), Gathered::Bytes(150));
        assert_eq!(gather(pieces[1..].iter(), 49, buffer), Gathered::Bytes(1));
        assert_eq!(gather(pieces[1..].iter(), 50, buffer), Gathered::Unreadable);
    }

    #[test]
    fn what_is_in_memory_is_gathered_only_with_parts_of_files_soon_behind() {
        let dir = TempDir::new("gathered-worth");
        let file = part(&stored(&dir, &[1; 100]), 0, 100);
        let of = |size| Records::Memory(vec![0; size].into());
        assert!(is_worth_it([&file].into_iter()));
        assert!(is_worth_it([&of(BYTES - 1), &file].into_iter()));
        assert!(!is_worth_it([&of(BYTES), &file].into_iter()));
        assert!(!is_worth_it([&of(1), &of(2)].into_iter()));
        let many = vec![of(1); PIECES];
        assert!(!is_worth_it(many.iter().chain([&file])));
        assert!(is_worth_it(many[1..].iter().chain([&file])));
    }
}
