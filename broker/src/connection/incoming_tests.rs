use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

use super::*;

const MIB: usize = 1 << 20;

fn frames(stream: DuplexStream) -> Frames<DuplexStream> {
    Frames::new(stream, FrameLimits::new(100 * MIB))
}

/// The first `sent` bytes of a Produce of `bytes`, its size included.
fn produce(bytes: usize, sent: usize) -> Vec<u8> {
    let size = (bytes - 4) as i32;
    let mut frame = size.to_be_bytes().to_vec();
    frame.resize(sent, 0);
    frame
}

/// A client that has sent 20 KiB of a Produce of 2 MiB, through a pipe of so many bytes, and the frames it sends.
async fn begun(pipe: usize) -> (DuplexStream, Frames<DuplexStream>) {
    let (mut theirs, ours) = duplex(pipe);
    theirs
        .write_all(&produce(2 * MIB, 20 << 10))
        .await
        .expect("sent");
    (theirs, frames(ours))
}

/// Of 16 MiB: 6 MiB for usual requests.
fn requests() -> Requests {
    Requests::new(16 * MIB)
}

#[tokio::test(start_paused = true)]
async fn a_frame_has_thirty_seconds_from_its_first_byte_room_or_not() {
    let requests = requests();
    for sent in [1, 10, 20 << 10, MIB] {
        let (mut theirs, ours) = duplex(2 * MIB);
        let mut frames = frames(ours);
        theirs
            .write_all(&produce(2 * MIB, sent))
            .await
            .expect("sent");
        let began = Instant::now();
        let ended = frames.next(&requests, FOREVER).await;
        assert_eq!(ended, Err("slow_frame"), "{sent}");
        assert_eq!(began.elapsed().as_secs(), 30, "{sent}");
        assert!(requests.of(2 * MIB).take_now(6 * MIB).is_some(), "{sent}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_begun_anew_with_is_not_given_more_time() {
    let requests = requests();
    let (_theirs, mut frames) = begun(2 * MIB).await;
    let began = Instant::now();
    // As whenever an answer goes out meanwhile.
    let ended = loop {
        let next = frames.next(&requests, FOREVER);
        match timeout(Duration::from_secs(7), next).await {
            Ok(ended) => break ended,
            Err(_) => assert!(began.elapsed().as_secs() < 30),
        }
    };
    assert_eq!(ended, Err("slow_frame"));
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn time_in_which_nobody_reads_is_not_the_frames() {
    let requests = requests();
    let (mut theirs, mut frames) = begun(4 * MIB).await;
    let next = frames.next(&requests, FOREVER);
    assert!(timeout(Duration::from_secs(20), next).await.is_err());
    tokio::time::sleep(Duration::from_secs(20)).await;
    theirs
        .write_all(&vec![0; 2 * MIB - (20 << 10)])
        .await
        .expect("sent");
    let frame = frames.next(&requests, FOREVER).await.expect("a frame");
    assert_eq!(frame.len(), 2 * MIB - 4);
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_gives_way_to_who_waits_for_its_room() {
    let requests = requests();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let (theirs, mut frames) = begun(2 * MIB).await;
        let next = frames.next(&requests, FOREVER);
        assert!(timeout(Duration::from_millis(1), next).await.is_err());
        clients.push((theirs, frames));
    }
    assert!(requests.of(MIB).take_now(1).is_none(), "all is given");
    let small = requests.of(16 << 10).take_now(16 << 10);
    assert!(small.is_some(), "small ones have their own");
    let began = Instant::now();
    let others = clients
        .iter_mut()
        .map(|(_, frames)| frames.next(&requests, FOREVER));
    let waits = requests.of(MIB).take(MIB);
    let (ended, waited) = tokio::join!(futures_util::future::join_all(others), async {
        waits.await.expect("open");
        began.elapsed()
    });
    assert!(
        ended.iter().any(|ended| *ended == Err("slow_frame")),
        "{ended:?}"
    );
    assert!(waited < Duration::from_secs(2), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn many_half_frames_that_waited_for_room_hold_it_for_a_moment_only() {
    let requests = requests();
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(begun(2 * MIB).await);
    }
    let others = clients
        .iter_mut()
        .map(|(_, frames)| frames.next(&requests, FOREVER));
    let began = Instant::now();
    let (_, waited) = tokio::join!(futures_util::future::join_all(others), async {
        // Behind all of them.
        tokio::time::sleep(Duration::from_millis(1)).await;
        requests.of(MIB).take(MIB).await.expect("open");
        began.elapsed()
    });
    assert!(waited < Duration::from_secs(4), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_comes_at_the_least_rate_is_not_ended_though_others_wait() {
    let requests = requests();
    let (mut theirs, ours) = duplex(64 << 10);
    let mut frames = frames(ours);
    let client = async {
        let whole = produce(2 * MIB, 2 * MIB);
        for piece in whole.chunks(128 << 10) {
            theirs.write_all(piece).await.expect("sent");
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    };
    let waits = async { requests.of(2 * MIB).take(6 * MIB).await.expect("open") };
    // The frame comes first.
    let reads = async {
        let frame = frames.next(&requests, FOREVER).await;
        drop(frames.take_room());
        frame
    };
    let (frame, (), _) = tokio::join!(reads, client, async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        waits.await
    });
    assert_eq!(frame.expect("a frame").len(), 2 * MIB - 4);
}

#[tokio::test(start_paused = true)]
async fn a_frame_behind_a_request_gets_no_room_before_its_turn() {
    let requests = requests();
    let (mut theirs, mut frames) = begun(2 * MIB).await;
    assert_eq!(frames.next_without_room().await, Ok(None));
    assert!(frames.take_room().is_none());
    assert_eq!(frames.next_without_room().await, Ok(None), "said again");
    theirs
        .write_all(&vec![0; 2 * MIB - (20 << 10)])
        .await
        .expect("sent");
    let frame = frames.next(&requests, FOREVER).await.expect("a frame");
    assert_eq!(frame.len(), 2 * MIB - 4);
    assert_eq!(frames.take_room().map(|held| held.bytes()), Some(2 * MIB));
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_room_has_an_end_and_gives_back_nothing_of_others() {
    let requests = requests();
    let held = requests.of(2 * MIB).take_now(6 * MIB);
    let (_theirs, mut frames) = begun(2 * MIB).await;
    let began = Instant::now();
    assert_eq!(frames.next(&requests, FOREVER).await, Err("no_room"));
    assert_eq!(began.elapsed(), ROOM_TIMEOUT);
    drop(held);
    assert!(requests.of(2 * MIB).take_now(6 * MIB).is_some());
}
