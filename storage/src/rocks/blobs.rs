//! Reads values where they lie in RocksDB's blob files, for whoever sends them on: small ones into memory, many with one read;
//! large ones only to check them, through a small buffer. Used by `rocks.rs` alone, while an iterator keeps the files there.
//!
//! Each value is checked: record header, key and the checksum over key and value. One that was found whole is not checked again
//! for up to a minute, however many read it meanwhile: what damages a disk does so between two reads of it, and what is read
//! again soon comes from memory. Nothing else is handed out. Who does not wait is given those only that stay in their files and
//! were found whole lately.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{Advice, CWD, Mode, OFlags, ResolveFlags};

use crate::blob::{RECORD_HEADER_BYTES, RecordHeader};
use crate::engine::{HEAD_BYTES, Patience, Taken, Untaken};
use crate::error::EngineError;
use crate::records::{FileRecords, StoredFile, read_from_memory};
use crate::waiters::lock;

/// Values from this size on stay in their file. Sending a smaller one from there costs more than the copy.
pub(super) const FILE_VALUE_BYTES: u64 = 16 << 10;

/// What is read at once.
const WINDOW_BYTES: usize = 64 << 10;

/// What is asked of the disk ahead; again when half of it is left.
const AHEAD_BYTES: u64 = 4 << 20;

/// Values that stay in their file begin in pages of their own.
const PAGE_BYTES: u64 = 4 << 10;

/// A value that was found whole is believed for this long at least, and twice as long at the most.
const BELIEVED: Duration = Duration::from_secs(30);

/// Memory for what was found whole in each half of that time, in words of 64 pages: half a megabyte, for 16 GiB of files. What
/// is more is checked each time.
const CHECKED_WORDS: usize = 64 << 10;

/// Where a value lies: `size` bytes from `offset` on, behind its key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) key: &'a [u8],
    pub(super) file: u64,
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Place<'_> {
    fn record_offset(&self) -> u64 {
        self.offset
            .saturating_sub(RECORD_HEADER_BYTES + self.key.len() as u64)
    }

    fn before_value(&self) -> usize {
        RECORD_HEADER_BYTES as usize + self.key.len()
    }

    fn damaged(&self, why: &str) -> EngineError {
        EngineError::Corruption(format!(
            "blob file {:06} at {}: {why}",
            self.file, self.offset
        ))
    }

    fn failed(&self, error: &io::Error) -> EngineError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => return self.damaged("it ends before the value does"),
            io::ErrorKind::InvalidInput => return self.damaged("no file is so large"),
            _ => {}
        }
        EngineError::Io(format!(
            "blob file {:06} at {}: {error}",
            self.file, self.offset
        ))
    }

    /// The record's header, if it is of this value: `begin` are the record's first bytes, key included.
    fn header(&self, begin: &[u8]) -> Result<RecordHeader, EngineError> {
        let header = begin.first_chunk().and_then(RecordHeader::parse);
        let header = header.ok_or_else(|| self.damaged("the header of its record is damaged"))?;
        let key = &begin[RECORD_HEADER_BYTES as usize..self.before_value()];
        if header.key_bytes != self.key.len() as u64
            || header.value_bytes != self.size
            || key != self.key
        {
            return Err(self.damaged("the record there is not the one looked for"));
        }
        Ok(header)
    }
}

/// Files that are open to be sent from, at most. What lies in more of them is read into memory.
const OPEN_FILES: usize = 256;

/// The files that are open, shared by all who read or send from them.
#[derive(Debug, Default)]
pub(super) struct OpenFiles {
    files: Mutex<HashMap<u64, Weak<StoredFile>>>,
}

impl OpenFiles {
    /// Whether somebody sends from the file, or will. Once it is removed and not open, it never is again.
    pub(super) fn has(&self, number: u64) -> bool {
        let files = lock(&self.files);
        files
            .get(&number)
            .is_some_and(|file| file.strong_count() > 0)
    }

    /// The file, and whether it may stay open for as long as a client takes. What cannot be read of it later on is
    /// `checked` again.
    fn open(
        &self,
        folder: &Path,
        place: &Place<'_>,
        checked: &Arc<Mutex<Checked>>,
        patience: Patience,
    ) -> Result<(Arc<StoredFile>, bool), Untaken> {
        let open = |files: &HashMap<u64, Weak<StoredFile>>| files.get(&place.file)?.upgrade();
        if let Some(file) = open(&lock(&self.files)) {
            return Ok((file, true));
        }
        // Not under the lock: a disk that hangs would stop those, too, whose files are open.
        let path = folder.join(format!("{:06}.blob", place.file));
        let file = match patience {
            Patience::Disk => File::open(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => place.damaged("the file is not there"),
                _ => EngineError::Io(format!("{}: {error}", path.display())),
            })?,
            Patience::None => open_in_memory(&path).ok_or(Untaken::Waits)?,
        };
        let (number, checked) = (place.file, checked.clone());
        let unreadable = move || lock(&checked).forget(number);
        let file = Arc::new(StoredFile::new(file, unreadable));
        let mut files = lock(&self.files);
        if let Some(file) = open(&files) {
            return Ok((file, true));
        }
        if files.len() >= OPEN_FILES {
            files.retain(|_, file| file.strong_count() > 0);
        }
        let shared = files.len() < OPEN_FILES;
        if shared {
            files.insert(place.file, Arc::downgrade(&file));
        }
        Ok((file, shared))
    }
}

/// The file, if what the system has to know of it is in memory.
fn open_in_memory(path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED);
    file.ok().map(File::from)
}

/// Which values were found whole, by the page that they begin in.
#[derive(Debug, Default)]
struct Pages {
    files: HashMap<u64, Vec<u64>>,
    words: usize,
}

impl Pages {
    fn bit(offset: u64) -> (usize, u64) {
        let page = offset / PAGE_BYTES;
        ((page / 64) as usize, 1 << (page % 64))
    }

    fn has(&self, file: u64, offset: u64) -> bool {
        let (word, bit) = Self::bit(offset);
        let words = self.files.get(&file);
        words.is_some_and(|words| words.get(word).is_some_and(|word| word & bit != 0))
    }

    fn add(&mut self, file: u64, offset: u64) {
        let (word, bit) = Self::bit(offset);
        let words = self.files.entry(file).or_default();
        let more = (word + 1).saturating_sub(words.len());
        if self.words + more > CHECKED_WORDS {
            return;
        }
        self.words += more;
        words.resize(words.len() + more, 0);
        words[word] |= bit;
    }

    fn forget(&mut self, file: u64) {
        self.words -= self.files.remove(&file).map_or(0, |words| words.len());
    }
}

/// What was found whole lately: since a moment, and in the time before that.
#[derive(Debug, Default)]
struct Checked {
    since: Duration,
    now: Pages,
    before: Pages,
}

impl Checked {
    fn move_on(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.since);
        if passed < BELIEVED {
            return;
        }
        self.before = std::mem::take(&mut self.now);
        self.since += BELIEVED;
        if passed >= 2 * BELIEVED {
            self.before = Pages::default();
            self.since = now;
        }
    }

    fn has(&mut self, file: u64, offset: u64, now: Duration) -> bool {
        self.move_on(now);
        self.now.has(file, offset) || self.before.has(file, offset)
    }

    /// It was found whole by a reader that began at `now`.
    fn add(&mut self, file: u64, offset: u64, now: Duration) {
        self.move_on(now);
        // Whoever began before this half of the time may have looked then.
        if now >= self.since {
            self.now.add(file, offset);
        } else if now + BELIEVED >= self.since {
            self.before.add(file, offset);
        }
    }

    /// Something of the file could not be read: nothing of it is believed any more.
    fn forget(&mut self, file: u64) {
        self.now.forget(file);
        self.before.forget(file);
    }
}

/// What is known of blob files, by all scans together.
#[derive(Debug, Default)]
pub(super) struct Blobs {
    open: Arc<OpenFiles>,
    checked: Arc<Mutex<Checked>>,
}

impl Blobs {
    pub(super) fn of(open: Arc<OpenFiles>) -> Self {
        Self {
            open,
            checked: Arc::default(),
        }
    }
}

/// Values that one scan hands out without waiting, at most: each takes about a microsecond.
const MOST_AT_ONCE: usize = 256;

/// Reads the values of one scan.
pub(super) struct Reader<'e> {
    pub(super) patience: Patience,
    folder: &'e Path,
    blobs: &'e Blobs,
    /// When the scan began, on a clock that never goes back.
    now: Duration,
    /// Number of the file, the file, and whether it may stay open.
    file: Option<(u64, Arc<StoredFile>, bool)>,
    /// What was read of the file last, and where that begins.
    window: Vec<u8>,
    window_offset: u64,
    /// Small values that follow each other are read with fewer and fewer reads.
    next_window: usize,
    /// Up to where the disk was asked ahead.
    asked: u64,
    /// Whether a value of the file was read before, so that more are likely to be.
    follows: bool,
    /// Bytes that were read.
    pub(super) read_bytes: usize,
    /// Values that were handed out without waiting.
    taken: usize,
}

impl<'e> Reader<'e> {
    pub(super) fn new(
        folder: &'e Path,
        blobs: &'e Blobs,
        (patience, now): (Patience, Duration),
    ) -> Self {
        Self {
            patience,
            folder,
            blobs,
            now,
            file: None,
            window: Vec::new(),
            window_offset: 0,
            next_window: 0,
            asked: 0,
            follows: false,
            read_bytes: 0,
            taken: 0,
        }
    }

    /// The value, and its first bytes.
    pub(super) fn take(&mut self, place: &Place<'_>) -> Result<Taken, Untaken> {
        if place.offset.checked_add(place.size).is_none() {
            return Err(place.damaged("no file is so large").into());
        }
        let is_large = place.size >= FILE_VALUE_BYTES;
        let is_checked = || lock(&self.blobs.checked).has(place.file, place.offset, self.now);
        let is_checked = is_large && is_checked();
        if self.patience == Patience::None {
            if !is_checked || self.taken == MOST_AT_ONCE {
                return Err(Untaken::Waits);
            }
            self.taken += 1;
        }
        let (file, may_stay_open) = self.open(place)?;
        if !is_large {
            return Ok(self.read_small(&file, place)?);
        }
        let head = if is_checked {
            self.head(&file, place)?
        } else {
            self.check(&file, place)?
        };
        let size = usize::try_from(place.size);
        let records = FileRecords {
            file,
            position: place.offset,
            size: size.map_err(|_| place.damaged("the value is too large"))?,
        };
        if may_stay_open {
            return Ok(Taken::in_file(head, records));
        }
        if self.patience == Patience::None {
            return Err(Untaken::Waits);
        }
        let value = records.read().map_err(|error| place.failed(&error))?;
        Ok(Taken::in_memory(value))
    }

    fn open(&mut self, place: &Place<'_>) -> Result<(Arc<StoredFile>, bool), Untaken> {
        if let Some((number, file, shared)) = &self.file
            && *number == place.file
        {
            return Ok((file.clone(), *shared));
        }
        let Blobs { open, checked } = self.blobs;
        let (file, shared) = open.open(self.folder, place, checked, self.patience)?;
        self.file = Some((place.file, file.clone(), shared));
        self.window.clear();
        self.next_window = 0;
        self.asked = 0;
        self.follows = false;
        Ok((file, shared))
    }

    /// A large value's first bytes.
    fn head(&self, file: &File, place: &Place<'_>) -> Result<[u8; HEAD_BYTES], Untaken> {
        let mut begin = vec![0; place.before_value() + HEAD_BYTES];
        let at = place.record_offset();
        match self.patience {
            Patience::Disk => file
                .read_exact_at(&mut begin, at)
                .map_err(|error| place.failed(&error))?,
            Patience::None => match read_from_memory(file, &mut begin, at) {
                Ok(true) => {}
                Ok(false) | Err(_) => return Err(Untaken::Waits),
            },
        }
        place.header(&begin)?;
        let head = begin[place.before_value()..].first_chunk().copied();
        Ok(head.ok_or_else(|| place.damaged("the value is too small"))?)
    }

    /// Reads a large value to check it; its first bytes.
    fn check(&mut self, file: &File, place: &Place<'_>) -> Result<[u8; HEAD_BYTES], EngineError> {
        let (mut offset, end) = (place.record_offset(), place.offset + place.size);
        self.ask(file, offset, end);
        let mut head = [0; HEAD_BYTES];
        let mut header = None;
        let mut checksum = 0;
        self.window.resize(WINDOW_BYTES, 0);
        self.window_offset = u64::MAX;
        while offset < end {
            let bytes = (end - offset).min(WINDOW_BYTES as u64) as usize;
            let window = &mut self.window[..bytes];
            file.read_exact_at(window, offset)
                .map_err(|error| place.failed(&error))?;
            let mut body = &window[..];
            if header.is_none() {
                header = Some(place.header(window)?);
                head.copy_from_slice(&window[place.before_value()..][..HEAD_BYTES]);
                body = &window[RECORD_HEADER_BYTES as usize..];
            }
            checksum = crc32c::crc32c_append(checksum, body);
            offset += bytes as u64;
            self.read_bytes += bytes;
            if offset < end {
                // As `RocksEngine::scan` does: others may have waited for the processor.
                std::thread::yield_now();
            }
        }
        if !header.is_some_and(|header| header.holds(checksum)) {
            return Err(place.damaged("the checksum of the value does not match"));
        }
        lock(&self.blobs.checked).add(place.file, place.offset, self.now);
        Ok(head)
    }

    /// Asks the disk for the value, and from the second one on for what follows, before it is needed.
    fn ask(&mut self, file: &File, offset: u64, end: u64) {
        let is_cold = |at| read_from_memory(file, &mut [0], at) == Ok(false);
        let (follows, far) = (self.follows, end.saturating_add(AHEAD_BYTES / 2));
        self.follows = true;
        let ahead = offset.saturating_add(AHEAD_BYTES);
        let to = if end > self.asked && is_cold(end - 1) {
            if follows { ahead } else { end }
        } else if follows && far > self.asked && is_cold(far) {
            ahead
        } else {
            return;
        };
        self.asked = to.max(end);
        let length = std::num::NonZeroU64::new(self.asked - offset);
        // Only advice: it is read in any case.
        let _ = rustix::fs::fadvise(file, offset, length, Advice::WillNeed);
    }

    fn read_small(&mut self, file: &File, place: &Place<'_>) -> Result<Taken, EngineError> {
        let begin = place.record_offset();
        let bytes = place.before_value() + place.size as usize;
        let inside = |reader: &Self| {
            let at = begin.checked_sub(reader.window_offset)? as usize;
            let end = at.checked_add(bytes)?;
            reader.window.get(at..end).map(|_| at)
        };
        let at = match inside(self) {
            Some(at) => at,
            None => {
                self.fill(file, place, begin, bytes)?;
                0
            }
        };
        let record = &self.window[at..at + bytes];
        let header = place.header(record)?;
        if !header.holds(crc32c::crc32c(&record[RECORD_HEADER_BYTES as usize..])) {
            return Err(place.damaged("the checksum of the value does not match"));
        }
        let value = Bytes::copy_from_slice(&record[place.before_value()..]);
        Ok(Taken::in_memory(value))
    }

    /// Reads the record, and what may be the next ones.
    fn fill(
        &mut self,
        file: &File,
        place: &Place<'_>,
        begin: u64,
        bytes: usize,
    ) -> Result<(), EngineError> {
        let wanted = bytes.max(self.next_window);
        self.next_window = (2 * wanted).min(WINDOW_BYTES);
        self.window.resize(wanted, 0);
        let mut filled = 0;
        // The file may end before the window does.
        while filled < bytes {
            let read = file
                .read_at(&mut self.window[filled..], begin + filled as u64)
                .map_err(|error| place.failed(&error))?;
            if read == 0 {
                self.window.clear();
                return Err(place.damaged("it ends before the value does"));
            }
            filled += read;
        }
        self.window.truncate(filled);
        self.window_offset = begin;
        self.read_bytes += filled;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
