//! Every name that the two exporters list: on the page of a broker in use, or absent with a reason.

use std::net::TcpStream;

use ottla::metrics::{EXPORTER_NAMES, METRIC_FAMILIES, Shown};
use ottla_integration_tests::clients::kcat;
use ottla_integration_tests::exposition::Page;
use ottla_integration_tests::wire::Wire;
use ottla_integration_tests::{Broker, TempDir};

use crate::requests::*;

/// Families that show only what this broker does not have, and why they are there.
const UNSEEN: &[(&str, &str)] = &[(
    "ottla_engine_property",
    "for what the store may tell one day and has no name for",
)];

/// A page of a broker on which everything that leaves a trace has happened.
fn page_in_use() -> (TempDir, Broker, Page) {
    let folder = TempDir::new("names");
    let broker = Broker::start(folder.path(), &[("num.partitions", "2")]);
    let write = kcat(&broker).args([
        "-P",
        "-t",
        "orders",
        "-p",
        "0",
        "-X",
        "enable.idempotence=true",
    ]);
    write.stdin("one\ntwo\n").succeed();
    let mut wire = Wire::connect(&broker);
    find_coordinator(&mut wire);
    commit(&mut wire, "audit", "orders", &[(0, 1)]);
    kcat(&broker)
        .args(["-C", "-t", "orders", "-p", "0", "-e", "-q"])
        .succeed();
    // A frame that announces more than is allowed.
    let mut bad = TcpStream::connect(broker.bootstrap()).expect("the broker accepts");
    std::io::Write::write_all(&mut bad, &i32::MAX.to_be_bytes()).expect("it takes the size");
    let ended = std::io::Read::read(&mut bad, &mut [0]);
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let page = scrape_when(&broker, "a refused frame", |page| {
        page.has("ottla_refused_total")
    });
    (folder, broker, page)
}

#[test]
fn every_name_of_the_two_exporters_is_on_the_page_or_absent_with_a_reason() {
    let (_folder, _broker, page) = page_in_use();
    let (mut here, mut absent) = (0, 0);
    for (name, exporter, shown) in EXPORTER_NAMES {
        match shown {
            Shown::Here => {
                assert!(page.has(name), "{name} of {exporter:?} is not on the page");
                here += 1;
            }
            Shown::Absent(reason) => {
                assert!(!page.has(name), "{name} is on the page");
                assert!(reason.len() > 10, "{name} is absent without a reason");
                absent += 1;
                println!("absent: {name}: {reason}");
            }
        }
    }
    println!("{here} names here, {absent} absent");
    assert!(here > 70, "{here}");
}

#[test]
fn the_page_has_the_families_of_the_table_and_no_other() {
    let (_folder, _broker, page) = page_in_use();
    for family in page.families() {
        let known = METRIC_FAMILIES.iter().any(|(name, _)| *name == family);
        assert!(known, "{family} is not in the table");
    }
    for (family, _) in METRIC_FAMILIES {
        let unseen = UNSEEN.iter().any(|(name, _)| name == family);
        assert_eq!(page.has(family), !unseen, "{family}");
    }
}

#[test]
fn the_times_of_a_request_are_measured() {
    let (_folder, broker, _) = page_in_use();
    let mut wire = Wire::connect(&broker);
    for _ in 0..20 {
        produce(&mut wire, "orders", &[0], &batch(&[1; 200]));
    }
    // The last answer's sending is recorded when it is written, which its reader need not wait for.
    let page = scrape_when(&broker, "all answers sent", |page| {
        let sent = "kafka_network_requestmetrics_responsesendtimems_count";
        page.value(sent, &[("request", "Produce")]) >= Some(21.0)
    });
    let longest = |part: &str| {
        let family = format!("kafka_network_requestmetrics_{part}timems");
        let labels = [("request", "Produce"), ("quantile", "0.999")];
        page.value(&family, &labels)
            .expect("a Produce was answered")
    };
    let total = longest("total");
    for part in [
        "requestqueue",
        "local",
        "remote",
        "responsequeue",
        "responsesend",
    ] {
        let part_ms = longest(part);
        println!("{part}: {part_ms} of {total} ms");
        assert!(part_ms <= total * 1.1, "{part}: {part_ms} of {total}");
    }
    assert!(
        longest("responsesend") > 0.0,
        "a write takes some microseconds"
    );
}

#[test]
fn an_unknown_version_of_apiversions_is_counted() {
    let folder = TempDir::new("unknown-version");
    let broker = Broker::start(folder.path(), &[]);
    let mut wire = Wire::connect(&broker);
    let frame = ottla_integration_tests::wire::frame(18, 31, 7, 2, &[0; 3]);
    wire.write(&frame);
    let answer = wire.read_frame().expect("an answer in version 0");
    assert_eq!(answer[4..6], 35_i16.to_be_bytes());
    let page = scrape(&broker);
    for (family, label) in [
        (
            "kafka_network_requestmetrics_requests_total",
            ("version", "31"),
        ),
        (
            "kafka_network_requestmetrics_errors_total",
            ("error", "UNSUPPORTED_VERSION"),
        ),
    ] {
        let labels = [("request", "ApiVersions"), label];
        assert_eq!(page.value(family, &labels), Some(1.0), "{family}");
    }
}
