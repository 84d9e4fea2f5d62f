//! What the disk itself can do, measured beside the brokers: no broker that syncs is faster.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use ottla::env::Env;
use rustix::fs::{Advice, OFlags};

use crate::load::Quantiles;

const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 1024;
/// What direct writes must be aligned to, on any usual disk.
const ALIGNMENT: usize = 4096;
const SMALL_SYNCS: usize = 2_000;
const LARGE_SYNCS: usize = 4_000;

/// Bytes per second of sequential `O_DIRECT` writes, 1 MiB at a time and one at a time, as `dd oflag=direct bs=1M`
/// does. `None` where the file system knows no direct writes.
pub fn direct_write_rate(env: &Env, folder: &Path) -> io::Result<Option<f64>> {
    let path = folder.join("disk-direct");
    let flags = OFlags::DIRECT.bits();
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(flags.cast_signed())
        .open(&path);
    let Ok(mut file) = opened else {
        return Ok(None);
    };
    let mut buffer = vec![0; BLOCK + ALIGNMENT];
    fastrand::Rng::with_seed(1).fill(&mut buffer);
    let at = buffer.as_ptr().align_offset(ALIGNMENT);
    let block = &buffer[at..at + BLOCK];
    let begin = env.monotonic();
    for _ in 0..BLOCKS {
        file.write_all(block)?;
    }
    let seconds = (env.monotonic() - begin).as_secs_f64();
    drop(file);
    std::fs::remove_file(&path)?;
    Ok(Some((BLOCK * BLOCKS) as f64 / seconds))
}

/// How long a write and its fdatasync take.
#[derive(Default)]
pub struct SyncTimes {
    /// 4 KiB at the end of a growing file.
    pub small_appended: Quantiles,
    /// 4 KiB over old bytes.
    pub small_overwritten: Quantiles,
    /// 1 MiB at the end of a growing file: what else the disk does while it is written to all the time.
    pub large_appended: Quantiles,
}

impl SyncTimes {
    /// Adds what the disk of `folder` takes.
    pub fn measure(&mut self, env: &Env, folder: &Path) -> io::Result<()> {
        let path = folder.join("disk-sync");
        let measured = self.measure_file(env, &path);
        std::fs::remove_file(&path)?;
        measured
    }

    fn measure_file(&mut self, env: &Env, path: &Path) -> io::Result<()> {
        let mut file = File::create(path)?;
        syncs(
            env,
            &mut file,
            4 << 10,
            SMALL_SYNCS,
            &mut self.small_appended,
        )?;
        file.seek(SeekFrom::Start(0))?;
        syncs(
            env,
            &mut file,
            4 << 10,
            SMALL_SYNCS,
            &mut self.small_overwritten,
        )?;
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        syncs(env, &mut file, BLOCK, LARGE_SYNCS, &mut self.large_appended)
    }
}

fn syncs(
    env: &Env,
    file: &mut File,
    bytes: usize,
    count: usize,
    times: &mut Quantiles,
) -> io::Result<()> {
    let mut block = vec![0; bytes];
    fastrand::Rng::with_seed(1).fill(&mut block);
    for _ in 0..count {
        let begin = env.monotonic();
        file.write_all(&block)?;
        file.sync_data()?;
        times.add(env.monotonic() - begin);
    }
    Ok(())
}

/// A disk is calm when so many small syncs in turn took no longer than `CALM_SYNC`; longer than `CALM_DEADLINE` nobody waits.
const CALM_SYNCS: usize = 200;
const CALM_SYNC: Duration = Duration::from_millis(5);
const CALM_DEADLINE: Duration = Duration::from_secs(30);

/// Waits while the disk is busy with what was removed before: giving back gigabytes takes it seconds, during which
/// syncs of others stand still for a tenth of a second now and then.
pub fn wait_until_calm(env: &Env, folder: &Path) -> io::Result<()> {
    let path = folder.join("disk-calm");
    let mut file = File::create(&path)?;
    let begin = env.monotonic();
    let (mut last, mut calm) = (begin, 0);
    while calm < CALM_SYNCS && last - begin < CALM_DEADLINE {
        file.write_all(&[0; 512])?;
        file.sync_data()?;
        let now = env.monotonic();
        calm = if now - last > CALM_SYNC { 0 } else { calm + 1 };
        last = now;
    }
    drop(file);
    std::fs::remove_file(&path)
}

/// Writes back what the page cache holds of a folder's files, and forgets it.
pub fn forget_cached(folder: &Path) -> io::Result<()> {
    rustix::fs::syncfs(File::open(folder)?)?;
    forget_files(folder)
}

fn forget_files(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget_files(&entry.path())?;
        } else if let Ok(file) = File::open(entry.path()) {
            // A file that is gone again needs no forgetting.
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}
