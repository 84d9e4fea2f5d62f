use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use ottla_storage::directory::TempDir;
use ottla_storage::log::Appends;
use ottla_storage::records::{FileRecords, StoredFile};
use rustix::io::Errno;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::room::Room;

fn answer(outgoing: &mut Outgoing, pieces: Vec<Bytes>, batches: Option<Held>) {
    let pieces = pieces.into_iter().map(Records::from).collect();
    let room = AnswerRoom {
        batches,
        frame: None,
    };
    outgoing.push(pieces, room, None);
}

#[tokio::test]
async fn pieces_are_written_whole_whatever_the_socket_takes() {
    let seed = 5;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        let mut outgoing = Outgoing::default();
        let mut expected = Vec::new();
        for _ in 0..rng.usize(0..9) {
            let pieces: Vec<Bytes> = (0..rng.usize(1..30))
                .map(|_| {
                    let length = rng.usize(0..300);
                    (0..length).map(|_| rng.u8(..)).collect::<Vec<_>>().into()
                })
                .collect();
            expected.extend(pieces.concat());
            answer(&mut outgoing, pieces, None);
        }
        let (mut ours, mut theirs) = tokio::io::duplex(rng.usize(1..500));
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.expect("reads");
            all
        });
        outgoing
            .write(&mut ours, &mut GivingWay::default())
            .await
            .expect("writes");
        drop(ours);
        assert_eq!(reader.await.expect("joins"), expected);
    }
}

fn stored(file: std::fs::File) -> Arc<StoredFile> {
    Arc::new(StoredFile::new(file, || {}))
}

/// A file without a name, on a disk rather than in memory.
fn file(bytes: &[u8]) -> Arc<StoredFile> {
    let dir = TempDir::on_disk("outgoing-pieces");
    let path = dir.path().join("stored");
    std::fs::write(&path, bytes).expect("writes");
    stored(std::fs::File::open(&path).expect("opens"))
}

#[tokio::test]
async fn parts_of_files_come_between_what_is_in_memory_whatever_the_socket_takes() {
    let seed = 6;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; 4 << 20];
    rng.fill(&mut bytes);
    let file = file(&bytes);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has one");
    for _ in 0..60 {
        let mut expected = Vec::new();
        let pieces: Vec<Records> = (0..rng.usize(1..100))
            .map(|_| {
                let most = [300, 300_000][rng.usize(0..2)];
                let size = rng.usize(1..most);
                let from = rng.usize(0..bytes.len() - size);
                let part = &bytes[from..from + size];
                expected.extend_from_slice(part);
                if rng.bool() {
                    return Records::Memory(Bytes::copy_from_slice(part));
                }
                Records::File(FileRecords {
                    file: file.clone(),
                    position: from as u64,
                    size,
                })
            })
            .collect();
        let mut outgoing = Outgoing::default();
        outgoing.push(pieces, AnswerRoom::default(), None);
        let (theirs, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_, mut ours) = accepted.expect("accepts").0.into_split();
        let mut theirs = theirs.expect("connects");
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.expect("reads");
            all
        });
        outgoing
            .write(&mut ours, &mut GivingWay::default())
            .await
            .expect("writes");
        drop(ours);
        assert!(reader.await.expect("joins") == expected);
    }
}

#[tokio::test]
async fn a_file_that_ends_too_early_ends_the_connection_and_the_store_is_told() {
    let mut outgoing = Outgoing::default();
    let dir = TempDir::new("outgoing-short");
    let path = dir.path().join("stored");
    std::fs::write(&path, [1; 1_000]).expect("writes");
    let doubts = Arc::new(AtomicUsize::new(0));
    let counts = doubts.clone();
    let doubted = move || {
        counts.fetch_add(1, Ordering::SeqCst);
    };
    let file = std::fs::File::open(&path).expect("opens");
    let records = FileRecords {
        file: Arc::new(StoredFile::new(file, doubted)),
        position: 500,
        size: 501,
    };
    outgoing.push(vec![Records::File(records)], AnswerRoom::default(), None);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has one");
    let (_theirs, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (_, mut ours) = accepted.expect("accepts").0.into_split();
    assert_eq!(
        outgoing.write(&mut ours, &mut GivingWay::default()).await,
        Err("store_error")
    );
    assert_eq!(doubts.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn who_keeps_a_deleted_file_open_and_does_not_read_is_ended_soon() {
    for deleted in [false, true] {
        let dir = TempDir::new("outgoing-deleted");
        let path = dir.path().join("stored");
        std::fs::write(&path, vec![1; 100 << 10]).expect("writes");
        let records = FileRecords {
            file: stored(std::fs::File::open(&path).expect("opens")),
            position: 0,
            size: 100 << 10,
        };
        let mut outgoing = Outgoing::default();
        outgoing.push(vec![Records::File(records)], AnswerRoom::default(), None);
        if deleted {
            std::fs::remove_file(&path).expect("removes");
        }
        let (mut ours, _theirs) = tokio::io::duplex(1 << 10);
        let began = Instant::now();
        assert_eq!(
            outgoing.write(&mut ours, &mut GivingWay::default()).await,
            Err("slow_reader")
        );
        let taken = began.elapsed().as_secs();
        let expected = if deleted { 1..2 } else { 60..62 };
        assert!(expected.contains(&taken), "after {taken} s");
    }
}

#[tokio::test]
async fn what_left_the_page_cache_is_sent_all_the_same() {
    let mut bytes = vec![0; 3 << 20];
    fastrand::Rng::with_seed(7).fill(&mut bytes);
    let dir = TempDir::on_disk("outgoing-cold");
    let path = dir.path().join("stored");
    std::fs::write(&path, &bytes).expect("writes");
    let file = stored(std::fs::File::open(&path).expect("opens"));
    file.sync_all().expect("syncs");
    let records = FileRecords {
        file,
        position: 10,
        size: bytes.len() - 10,
    };
    // A look has the system bring what it looks for, so that each one needs a new start.
    let forgotten = (0..10).any(|_| {
        let forgets = rustix::fs::Advice::DontNeed;
        rustix::fs::fadvise(&*records.file, 0, None, forgets).expect("forgets");
        records.read_in_memory(records.size - 1, &mut [0]).ok() == Some(0)
    });
    // Not every file system tells.
    let mut byte = [0];
    let mut slices = [std::io::IoSliceMut::new(&mut byte)];
    let nowait = rustix::io::ReadWriteFlags::NOWAIT;
    let tells = rustix::io::preadv2(&*records.file, &mut slices, 0, nowait);
    assert!(forgotten || tells == Err(Errno::OPNOTSUPP));
    rustix::fs::fadvise(&*records.file, 0, None, rustix::fs::Advice::DontNeed).expect("forgets");
    let mut outgoing = Outgoing::default();
    outgoing.push(vec![Records::File(records)], AnswerRoom::default(), None);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has one");
    let (theirs, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (_, mut ours) = accepted.expect("accepts").0.into_split();
    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        let mut theirs = theirs.expect("connects");
        theirs.read_to_end(&mut all).await.expect("reads");
        all
    });
    outgoing
        .write(&mut ours, &mut GivingWay::default())
        .await
        .expect("writes");
    drop(ours);
    assert!(reader.await.expect("joins") == bytes[10..]);
}

#[tokio::test]
async fn others_have_their_turn_after_each_large_piece_while_somebody_appends() {
    let file = file(&[1; 100_000]);
    for (appending, turns) in [(false, 3..5), (true, 15..20)] {
        let mut outgoing = Outgoing::default();
        let piece = Records::File(FileRecords {
            file: file.clone(),
            position: 0,
            size: 100_000,
        });
        outgoing.push(vec![piece; 40], AnswerRoom::default(), None);
        let (mut ours, _theirs) = tokio::io::duplex(8 << 20);
        let appends = Appends::default();
        let mut giving_way = GivingWay::to(appends.clone());
        if appending {
            appends.add();
        }
        let mut others = 0;
        let mut write = pin!(outgoing.write(&mut ours, &mut giving_way));
        let written = poll_fn(|cx| {
            let written = write.as_mut().poll(cx);
            others += usize::from(written.is_pending());
            written
        });
        written.await.expect("writes");
        assert!(turns.contains(&others), "{others} while {appending}");
    }
}

const PIECE: usize = 256 << 10;

/// Two answers of four pieces each, with their room, which is all there is.
async fn two_answers(room: &Room) -> Outgoing {
    let mut outgoing = Outgoing::default();
    for _ in 0..2 {
        let held = room.take(4 * PIECE).await.expect("room");
        answer(&mut outgoing, vec![vec![7; PIECE].into(); 4], Some(held));
    }
    outgoing
}

#[tokio::test(start_paused = true)]
async fn room_is_given_back_with_what_is_written() {
    let room = Room::new(8 * PIECE);
    let outgoing = two_answers(&room).await;
    let (mut ours, mut theirs) = tokio::io::duplex(1 << 10);
    let writer =
        tokio::spawn(async move { outgoing.write(&mut ours, &mut GivingWay::default()).await });
    let mut read = vec![0; 3 * PIECE];
    theirs.read_exact(&mut read).await.expect("three pieces");
    let free = room.take(2 * PIECE).await.expect("of the first two");
    assert!(
        room.take_now(2 * PIECE).is_none(),
        "the others are not sent"
    );
    theirs.read_exact(&mut read).await.expect("six pieces");
    room.take(2 * PIECE).await.expect("of the next ones");
    drop(free);
    let mut rest = vec![0; 2 * PIECE];
    theirs.read_exact(&mut rest).await.expect("all");
    writer.await.expect("joins").expect("writes");
    assert!(room.take_now(8 * PIECE).is_some());
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_has_a_minute_while_nobody_wants_the_room() {
    let room = Room::new(8 * PIECE);
    let outgoing = two_answers(&room).await;
    let (mut ours, _theirs) = tokio::io::duplex(1 << 10);
    let began = Instant::now();
    let ended = outgoing.write(&mut ours, &mut GivingWay::default()).await;
    assert_eq!(ended, Err("slow_reader"));
    let taken = began.elapsed().as_secs();
    assert!((60..62).contains(&taken), "after {taken} s");
    assert!(room.take_now(8 * PIECE).is_some());
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_ended_soon_when_others_want_the_room() {
    let room = Room::new(8 * PIECE);
    let outgoing = two_answers(&room).await;
    let (mut ours, _theirs) = tokio::io::duplex(1 << 10);
    let began = Instant::now();
    let mut giving_way = GivingWay::default();
    let (ended, waited) = tokio::join!(outgoing.write(&mut ours, &mut giving_way), room.take(1));
    assert_eq!(ended, Err("slow_reader"));
    waited.expect("room");
    let taken = began.elapsed();
    assert!(taken < Duration::from_secs(2), "after {taken:?}");
}

#[tokio::test(start_paused = true)]
async fn a_few_bytes_now_and_then_do_not_keep_an_answer_for_ever() {
    let room = Room::new(8 * PIECE);
    let outgoing = two_answers(&room).await;
    let (mut ours, mut theirs) = tokio::io::duplex(1 << 10);
    let dripping = tokio::spawn(async move {
        let mut some = [0; 1 << 10];
        while theirs.read_exact(&mut some).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let began = Instant::now();
    assert_eq!(
        outgoing.write(&mut ours, &mut GivingWay::default()).await,
        Err("slow_reader")
    );
    // 2 MiB at the lowest rate take 8 s.
    let taken = began.elapsed().as_secs();
    assert!((68..70).contains(&taken), "after {taken} s");
    drop(ours);
    dripping.await.expect("joins");
}

#[tokio::test(start_paused = true)]
async fn who_reads_at_the_least_rate_is_not_ended_though_others_wait() {
    let room = Room::new(8 * PIECE);
    let outgoing = two_answers(&room).await;
    let (mut ours, mut theirs) = tokio::io::duplex(64 << 10);
    let reader = tokio::spawn(async move {
        let mut some = vec![0; PIECE];
        for _ in 0..8 {
            theirs.read_exact(&mut some).await.expect("a piece");
            tokio::time::sleep(Duration::from_millis(800)).await;
        }
    });
    let waits = async {
        // More than is free before the end.
        room.take(8 * PIECE).await.expect("room");
    };
    let mut giving_way = GivingWay::default();
    let (written, ()) = tokio::join!(outgoing.write(&mut ours, &mut giving_way), waits);
    written.expect("all");
    reader.await.expect("joins");
}
