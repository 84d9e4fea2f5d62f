//! Measures what the README promises about a start: the time from `exec` to the first Metadata answer, and the
//! resident memory of an idle broker. Run by `scripts/startup`; exits with 1 when a limit is passed.
//!
//! Each number is the median of several starts, so that one hiccup of a busy machine does not decide.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use ottla::env::Env;
use ottla_integration_tests::{Broker, TempDir};

const STARTS: usize = 5;
const FIRST_ANSWER_LIMIT: Duration = Duration::from_millis(300);
const IDLE_MEMORY_LIMIT_KIB: u64 = 40 * 1024;

fn main() -> ExitCode {
    let env = Env::system();
    let mut fresh = Vec::new();
    let mut again = Vec::new();
    let mut memory = Vec::new();
    for _ in 0..STARTS {
        let folder = TempDir::new("startup");
        fresh.push(first_answer(&env, &folder).0);
        let (time, broker) = first_answer(&env, &folder);
        again.push(time);
        // Idle for a second: threads have started, caches have what they take.
        assert!(
            broker.process().wait(Duration::from_secs(1)).is_none(),
            "the broker runs on"
        );
        memory.push(resident_kib(broker.process().id()));
    }
    let (fresh, again, memory) = (median(fresh), median(again), median(memory));
    println!(
        "first Metadata answer: {fresh:.1?} in an empty folder, {again:.1?} in a used one (limit {FIRST_ANSWER_LIMIT:?})"
    );
    println!("resident memory when idle: {memory} KiB (limit {IDLE_MEMORY_LIMIT_KIB} KiB)");
    if fresh.max(again) > FIRST_ANSWER_LIMIT || memory > IDLE_MEMORY_LIMIT_KIB {
        println!("a limit is passed");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Starts a broker and asks for the metadata of all topics.
fn first_answer(env: &Env, folder: &TempDir) -> (Duration, Broker) {
    let begin = env.monotonic();
    let broker = Broker::start(folder.path(), &[]);
    let answer = all_topics(&broker.bootstrap())
        .unwrap_or_else(|error| panic!("no Metadata answer: {error}"));
    let time = env.monotonic() - begin;
    assert_eq!(
        answer[..4],
        CORRELATION_ID.to_be_bytes(),
        "the answer is for this request"
    );
    (time, broker)
}

const CORRELATION_ID: i32 = 7;

/// A Metadata request of version 4, written by hand because one is enough here.
fn all_topics(address: &str) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::new();
    request.extend(3_i16.to_be_bytes()); // Metadata
    request.extend(4_i16.to_be_bytes()); // version
    request.extend(CORRELATION_ID.to_be_bytes());
    request.extend((-1_i16).to_be_bytes()); // no client id
    request.extend((-1_i32).to_be_bytes()); // all topics
    request.push(0); // no auto-creation
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(&(request.len() as u32).to_be_bytes())?;
    stream.write_all(&request)?;
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let mut answer = vec![0; u32::from_be_bytes(size) as usize];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn resident_kib(process: i32) -> u64 {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("the kernel tells VmRSS");
    line.split_whitespace()
        .next()
        .and_then(|kib| kib.parse().ok())
        .expect("VmRSS is a number of kB")
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}
