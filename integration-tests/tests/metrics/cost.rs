//! What a scrape costs with 10,000 partitions and 10,000 committed offsets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ottla_integration_tests::exposition::Page;
use ottla_integration_tests::http::get;
use ottla_integration_tests::wire::Wire;
use ottla_integration_tests::{Broker, TempDir};
use tokio::time::Instant;

use crate::requests::*;

/// The promise, from the request to the last byte of the page.
const PROMISED: Duration = Duration::from_millis(100);
/// Other tests share the machine: the best of so many is what the broker can do.
const TRIES: usize = 15;
/// Memory that scrapes may cost beyond their pages, two of which are there at a time.
const SLACK_BYTES: u64 = 48 << 20;

fn peak_memory(broker: &Broker) -> u64 {
    let path = format!("/proc/{}/status", broker.process().id());
    let status = std::fs::read_to_string(path).expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.expect("a peak").trim().trim_end_matches(" kB");
    kib.parse::<u64>().expect("a number") * 1024
}

#[test]
fn a_scrape_of_ten_thousand_partitions_takes_less_than_100_ms() {
    let folder = TempDir::new("scrape-cost");
    let broker = Broker::start(folder.path(), &[]);
    let port = metrics_port(&broker);
    let mut wire = Wire::connect(&broker);
    let names: Vec<String> = (0..10).map(|at| format!("events.of-topic.{at}")).collect();
    let began = Instant::now();
    for name in &names {
        create(&mut wire, &[name], 1_000, &[]);
    }
    println!("10,000 partitions created in {:?}", began.elapsed());
    let all: Vec<i32> = (0..1_000).collect();
    for name in &names {
        produce(&mut wire, name, &all, &batch(&[1_700_000_000_000; 3]));
    }
    find_coordinator(&mut wire);
    for (at, name) in names.iter().enumerate() {
        // Every fifth has read all there is.
        let offset = |partition: &i32| (*partition, if partition % 5 == 0 { 3 } else { 1 });
        let offsets: Vec<(i32, i64)> = all.iter().map(offset).collect();
        commit(&mut wire, &format!("group-{at}"), name, &offsets);
    }

    let before = peak_memory(&broker);
    let mut took = Vec::new();
    let mut pages = Vec::new();
    for _ in 0..TRIES {
        let began = Instant::now();
        let (status, page) = get(port, "/metrics");
        took.push(began.elapsed());
        assert_eq!(status, 200);
        pages.push(page.len());
    }
    let best = *took.iter().min().expect("there were tries");
    println!(
        "scrapes of {:?} bytes: best {best:?}, all {took:?}",
        pages.last()
    );

    // All 8,000 that lag are looked up by now, 1,000 in a scrape.
    let page = Page::parse(&get(port, "/metrics").1);
    assert_eq!(page.count("kafka_log_log_logendoffset"), 10_050);
    assert_eq!(page.count("kafka_consumergroup_lag"), 10_000);
    assert_eq!(page.count("kafka_consumergroup_lag_seconds"), 10_000);

    // Two at once, and one whose client goes away in the middle of the page.
    let two = std::thread::scope(|scope| {
        let scrapes = [(); 2].map(|()| scope.spawn(|| get(port, "/metrics")));
        scrapes.map(|scrape| scrape.join().expect("an answer"))
    });
    for (status, page) in two {
        assert_eq!(status, 200);
        Page::parse(&page);
    }
    for _ in 0..20 {
        let mut gone = TcpStream::connect(("127.0.0.1", port)).expect("it accepts");
        gone.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")
            .expect("it takes a request");
        gone.read_exact(&mut [0; 1_000]).expect("the page begins");
    }
    let (status, page) = get(port, "/metrics");
    assert_eq!(status, 200);

    let grown = peak_memory(&broker).saturating_sub(before);
    let allowed = 2 * page.len() as u64 + SLACK_BYTES;
    println!("memory: {before} bytes before, {grown} more at most, {allowed} allowed");
    assert!(grown <= allowed, "{grown} bytes more, {allowed} allowed");
    assert!(best < PROMISED, "best {best:?} of {took:?}");
}
