//! Groups on the page: their offsets, their lag in records and in seconds, and any group id as a label.

use std::time::{SystemTime, UNIX_EPOCH};

use ottla_integration_tests::clients::kcat;
use ottla_integration_tests::exposition::Page;
use ottla_integration_tests::wire::Wire;
use ottla_integration_tests::{Broker, TempDir};

use crate::requests::*;

const HOUR_MS: i64 = 3_600_000;

#[allow(
    clippy::disallowed_methods,
    reason = "a lag in seconds is a difference to the wall clock"
)]
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_millis() as i64
}

fn of_group(page: &Page, family: &str, labels: &[(&str, &str)]) -> Option<f64> {
    page.value(&format!("kafka_consumergroup_{family}"), labels)
}

fn at<'a>(group: &'a str, topic: &'a str, partition: &'a str) -> [(&'a str, &'a str); 3] {
    [
        ("consumergroup", group),
        ("topic", topic),
        ("partition", partition),
    ]
}

/// Seconds of lag, which must be the age of a record of `time`.
fn assert_age(page: &Page, labels: &[(&str, &str)], time: i64, scraped_from: i64) {
    let lag = of_group(page, "lag_seconds", labels).unwrap_or_else(|| panic!("{labels:?}"));
    let least = (scraped_from - time) as f64 / 1_000.0;
    let most = (now_ms() - time) as f64 / 1_000.0;
    assert!((least..=most).contains(&lag), "{least} <= {lag} <= {most}");
}

#[test]
fn lag_is_told_in_records_and_in_seconds() {
    let folder = TempDir::new("lag");
    let broker = Broker::start(folder.path(), &[]);
    let mut wire = Wire::connect(&broker);
    create(&mut wire, &["orders"], 4, &[]);
    create(
        &mut wire,
        &["stamped"],
        1,
        &[("message.timestamp.type", "LogAppendTime")],
    );
    let began = now_ms();
    let (old, newer) = (began - 3 * HOUR_MS, began - HOUR_MS);
    produce(
        &mut wire,
        "orders",
        &[0, 1, 2],
        &batch(&[old, old + 7, old + 9]),
    );
    produce(&mut wire, "orders", &[0, 1, 2], &batch(&[newer, newer + 5]));
    produce(&mut wire, "stamped", &[0], &batch(&[old]));
    find_coordinator(&mut wire);
    commit(
        &mut wire,
        "audit",
        "orders",
        &[(0, 0), (1, 3), (2, 5), (3, 0)],
    );
    commit(&mut wire, "late", "orders", &[(0, 4), (1, 1)]);
    commit(&mut wire, "late", "stamped", &[(0, 0)]);

    let scraped_from = now_ms();
    let page = scrape(&broker);
    for (group, partition, offset, lag) in [
        ("audit", "0", 0.0, 5.0),
        ("audit", "1", 3.0, 2.0),
        ("audit", "2", 5.0, 0.0),
        ("audit", "3", 0.0, 0.0),
        ("late", "0", 4.0, 1.0),
        ("late", "1", 1.0, 4.0),
    ] {
        let labels = at(group, "orders", partition);
        let shown = of_group(&page, "current_offset", &labels);
        assert_eq!(shown, Some(offset), "{labels:?}");
        assert_eq!(of_group(&page, "lag", &labels), Some(lag), "{labels:?}");
    }
    for (group, offsets, lags) in [("audit", 8.0, 7.0), ("late", 5.0, 5.0)] {
        let labels = [("consumergroup", group), ("topic", "orders")];
        let sum = of_group(&page, "current_offset_sum", &labels);
        assert_eq!(sum, Some(offsets), "{group}");
        assert_eq!(of_group(&page, "lag_sum", &labels), Some(lags), "{group}");
        let members = of_group(&page, "members", &[("consumergroup", group)]);
        assert_eq!(members, Some(0.0), "{group}");
    }
    // The first unread batch begins at the offset, or holds it.
    assert_age(&page, &at("audit", "orders", "0"), old, scraped_from);
    assert_age(&page, &at("audit", "orders", "1"), newer, scraped_from);
    assert_age(&page, &at("late", "orders", "0"), newer, scraped_from);
    assert_age(&page, &at("late", "orders", "1"), old, scraped_from);
    for read in ["2", "3"] {
        let seconds = of_group(&page, "lag_seconds", &at("audit", "orders", read));
        assert_eq!(seconds, Some(0.0), "{read}");
    }
    // There the broker's own time counts, which is after the test began.
    let stamped = of_group(&page, "lag_seconds", &at("late", "stamped", "0"));
    assert!(stamped.is_some_and(|lag| lag < 3_000.0), "{stamped:?}");
    let groups = "kafka_coordinator_group_groupmetadatamanager_num";
    assert_eq!(page.value(&format!("{groups}groups"), &[]), Some(2.0));
    assert_eq!(page.value(&format!("{groups}groupsempty"), &[]), Some(2.0));
    assert_eq!(page.value(&format!("{groups}offsets"), &[]), Some(7.0));

    // It goes on with the clock while nothing moves, and follows the offset when it does.
    let scraped_from = now_ms();
    assert_age(
        &scrape(&broker),
        &at("audit", "orders", "0"),
        old,
        scraped_from,
    );
    commit(&mut wire, "audit", "orders", &[(0, 3)]);
    let scraped_from = now_ms();
    assert_age(
        &scrape(&broker),
        &at("audit", "orders", "0"),
        newer,
        scraped_from,
    );
    commit(&mut wire, "audit", "orders", &[(0, 5)]);
    let done = of_group(&scrape(&broker), "lag_seconds", &at("audit", "orders", "0"));
    assert_eq!(done, Some(0.0));
}

#[test]
fn a_group_with_members_is_counted_as_such() {
    let folder = TempDir::new("members");
    let delay = ("group.initial.rebalance.delay.ms", "0");
    let broker = Broker::start(folder.path(), &[delay]);
    kcat(&broker).args(["-P", "-t", "t"]).stdin("x\n").succeed();
    let member = kcat(&broker)
        .args(["-G", "readers", "-q", "-u", "t"])
        .start();
    let page = scrape_when(&broker, "a stable group", |page| {
        let ended = member.wait(std::time::Duration::ZERO);
        assert!(ended.is_none(), "{}", member.output());
        let stable = "kafka_coordinator_group_groupmetadatamanager_numgroupsstable";
        page.value(stable, &[]) == Some(1.0)
    });
    let members = of_group(&page, "members", &[("consumergroup", "readers")]);
    assert_eq!(members, Some(1.0));
    let classic = "kafka_server_group_coordinator_metrics_classic_group_count";
    assert_eq!(page.value(classic, &[("state", "Stable")]), Some(1.0));
}

#[test]
fn any_group_id_is_a_valid_label() {
    let folder = TempDir::new("labels");
    let broker = Broker::start(folder.path(), &[]);
    let mut wire = Wire::connect(&broker);
    create(&mut wire, &["t"], 1, &[]);
    produce(&mut wire, "t", &[0], &batch(&[1]));
    find_coordinator(&mut wire);
    let long = "g".repeat(30_000);
    let odd = [
        "a\"b",
        "a\\b",
        "a\nb",
        "\\n",
        "a{b=\"c\"} 1",
        "ü 漢 😀",
        "\u{0}\t\r",
        "a,",
        " ",
        &long,
    ];
    for group in odd {
        commit(&mut wire, group, "t", &[(0, 0)]);
    }
    let page = scrape(&broker);
    for group in odd {
        let labels = at(group, "t", "0");
        assert_eq!(of_group(&page, "lag", &labels), Some(1.0), "{group:?}");
    }
}

#[test]
fn detail_bounds_the_series_and_keeps_the_sums() {
    let folder = TempDir::new("detail");
    let per_partition = ["kafka_log_log_logendoffset", "kafka_consumergroup_lag"];
    let per_topic = ["kafka_topic_partitions", "kafka_consumergroup_lag_sum"];
    for (at, detail) in ["partition", "topic", "cluster"].into_iter().enumerate() {
        let broker = Broker::start(folder.path(), &[("metrics.detail", detail)]);
        let mut wire = Wire::connect(&broker);
        if at == 0 {
            create(&mut wire, &["t"], 3, &[]);
            find_coordinator(&mut wire);
            commit(&mut wire, "g", "t", &[(0, 0), (1, 0)]);
        }
        let page = scrape(&broker);
        for family in per_partition {
            assert_eq!(page.has(family), detail == "partition", "{family} {detail}");
        }
        for family in per_topic {
            assert_eq!(page.has(family), detail != "cluster", "{family} {detail}");
        }
        for (family, value) in [
            (
                "kafka_coordinator_group_groupmetadatamanager_numoffsets",
                2.0,
            ),
            (
                "kafka_controller_kafkacontroller_globalpartitioncount",
                53.0,
            ),
        ] {
            assert_eq!(page.value(family, &[]), Some(value), "{family} {detail}");
        }
    }
}
