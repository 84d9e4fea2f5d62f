//! What a connection promises about order: requests sent without waiting are done and answered in their order, and
//! a produce that asks for no answer gets none.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use kafka_protocol::messages::{
    ApiVersionsRequest, FetchRequest, ListOffsetsRequest, ProduceRequest,
};
use ottla_integration_tests::wire::{Ticket, Wire};
use ottla_integration_tests::{Broker, seed};

use crate::requests::{
    LATEST, NONE, Topic, batch, bounds, bounds_are, create, fetch_request, fetched, list_request,
    newest, produce, produce_request, produced, stored, values,
};
use crate::started;

const PRODUCE: i16 = 11;

#[test]
fn five_produces_and_a_look_up_in_one_write_are_done_and_answered_in_order() {
    let (_folder, _broker, mut wire) = started("wire-pipeline", &[]);
    let topic = create(&mut wire, 1, &[]);
    for round in 0..20 {
        let base = round * 10;
        let mut bytes = Vec::new();
        let mut tickets = Vec::new();
        for _ in 0..5 {
            let request = produce_request(PRODUCE, -1, &[(&topic, 0, batch(&["a", "b"]))]);
            let (frame, ticket) = wire.frame(PRODUCE, &request);
            bytes.extend_from_slice(&frame);
            tickets.push(ticket);
        }
        let (frame, look_up) = wire.frame(
            newest::<ListOffsetsRequest>(),
            &list_request(&topic.name, 0, LATEST),
        );
        bytes.extend_from_slice(&frame);
        let read = fetch_request(newest::<FetchRequest>(), &[(&topic, 0, base + 8)]);
        let (frame, read) = wire.frame(newest::<FetchRequest>(), &read);
        bytes.extend_from_slice(&frame);
        wire.write(&bytes);
        for (index, ticket) in (0..).zip(tickets) {
            let response = produced(wire.receive(ticket));
            assert_eq!(
                (response.error_code, response.base_offset),
                (NONE, base + 2 * index)
            );
        }
        let response = wire.receive::<ListOffsetsRequest>(look_up);
        assert_eq!(
            response.topics[0].partitions[0].offset,
            base + 10,
            "it sees all five"
        );
        let read = values(&fetched(wire.receive::<FetchRequest>(read)));
        assert_eq!(
            read,
            [(base + 8, "a".to_owned()), (base + 9, "b".to_owned())]
        );
    }
}

/// Any mixture, cut into writes anywhere, has the answers that one request after the other would have had.
#[test]
fn any_mixture_of_requests_in_any_pieces_is_answered_as_if_one_by_one() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (_folder, broker, mut wire) = started("wire-mixture", &[]);
    let topic = create(&mut wire, 1, &[]);
    let mut end = 0;
    // What an answer, or nothing at all, vouches for: `acks=0` takes its place at once, and shows after the next sync.
    let mut visible = 0;
    for _ in 0..30 {
        let mut wire = Wire::connect(&broker);
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..random.usize(1..150) {
            let frame = match random.u8(0..6) {
                0 | 1 => {
                    let request = produce_request(PRODUCE, -1, &[(&topic, 0, batch(&["x"]))]);
                    let (frame, ticket) = wire.frame(PRODUCE, &request);
                    expected.push(Expected::Produced(ticket, end));
                    end += 1;
                    visible = end;
                    frame
                }
                2 => {
                    let request = produce_request(PRODUCE, 0, &[(&topic, 0, batch(&["x", "y"]))]);
                    end += 2;
                    wire.frame(PRODUCE, &request).0
                }
                3 => {
                    let request =
                        produce_request(PRODUCE, -1, &[(&Topic::unknown(), 0, batch(&["x"]))]);
                    let (frame, ticket) = wire.frame(PRODUCE, &request);
                    expected.push(Expected::Refused(ticket));
                    frame
                }
                4 => {
                    let (frame, ticket) = wire.frame(10, &list_request(&topic.name, 0, LATEST));
                    expected.push(Expected::End(ticket, visible..=end));
                    frame
                }
                _ => {
                    let (frame, ticket) = wire.frame(0, &ApiVersionsRequest::default());
                    expected.push(Expected::Versions(ticket));
                    frame
                }
            };
            bytes.extend_from_slice(&frame);
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(random.usize(1..=rest.len()));
            wire.write(piece);
            rest = after;
        }
        for expected in expected {
            match expected {
                Expected::Produced(ticket, offset) => {
                    let response = produced(wire.receive(ticket));
                    assert_eq!((response.error_code, response.base_offset), (NONE, offset));
                }
                Expected::Refused(ticket) => {
                    assert_eq!(produced(wire.receive(ticket)).error_code, 3)
                }
                Expected::End(ticket, ends) => {
                    let response = wire.receive::<ListOffsetsRequest>(ticket);
                    let end = response.topics[0].partitions[0].offset;
                    assert!(ends.contains(&end), "{end} is not in {ends:?}");
                }
                Expected::Versions(ticket) => {
                    assert_eq!(wire.receive::<ApiVersionsRequest>(ticket).error_code, NONE);
                }
            }
        }
        // What asked for no answer is there, too, once something behind it is answered.
        assert_eq!(produce(&mut wire, &topic, 0, batch(&["last"])), end);
        end += 1;
        visible = end;
        bounds_are(&mut wire, &topic, 0, (0, end));
    }
}

enum Expected {
    Produced(Ticket<ProduceRequest>, i64),
    Refused(Ticket<ProduceRequest>),
    End(Ticket<ListOffsetsRequest>, RangeInclusive<i64>),
    Versions(Ticket<ApiVersionsRequest>),
}

#[test]
fn a_produce_with_acks_0_is_stored_and_never_answered() {
    let (_folder, _broker, mut wire) = started("wire-acks-0", &[]);
    let topic = create(&mut wire, 1, &[]);
    let mut stored_so_far = Vec::new();
    for version in 3..=13 {
        let text = format!("v{version}");
        let quiet = produce_request(version, 0, &[(&topic, 0, batch(&[&text]))]);
        let (quiet, _) = wire.frame(version, &quiet);
        let (next, ticket) = wire.frame(0, &ApiVersionsRequest::default());
        wire.write(&[quiet, next].concat());
        // The very next answer is that of the next request: `receive` compares correlation ids.
        assert_eq!(wire.receive::<ApiVersionsRequest>(ticket).error_code, NONE);
        stored_so_far.push(text);
        // It took its place before the next produce, whose answer also vouches for it.
        produce(&mut wire, &topic, 0, batch(&["answered"]));
        stored_so_far.push("answered".to_owned());
        assert_eq!(stored(&mut wire, &topic, 0), stored_so_far);
    }
}

#[test]
fn a_failed_produce_with_acks_0_closes_the_connection_as_nothing_else_could_tell() {
    let (_folder, broker, mut other) = started("wire-acks-0-error", &[]);
    let topic = create(&mut other, 1, &[]);
    for version in 3..=13 {
        let mut wire = Wire::connect(&broker);
        let before = bounds(&mut wire, &topic, 0).1;
        let good = produce_request(version, -1, &[(&topic, 0, batch(&["good"]))]);
        let bad = produce_request(version, 0, &[(&Topic::unknown(), 0, batch(&["bad"]))]);
        let (good, ticket) = wire.frame(version, &good);
        let (bad, _) = wire.frame(version, &bad);
        wire.write(&[good, bad].concat());
        assert_eq!(
            produced(wire.receive::<ProduceRequest>(ticket)).base_offset,
            before
        );
        wire.expect_close();
    }
}

/// How often each network thread of the broker waited for something, by its name.
fn waits_of_network_threads(broker: &Broker) -> BTreeMap<String, u64> {
    let tasks = format!("/proc/{}/task", broker.process().id());
    let entries = std::fs::read_dir(tasks).expect("a process of this machine");
    let waits = entries.filter_map(|entry| {
        let folder = entry.ok()?.path();
        let name = std::fs::read_to_string(folder.join("comm")).ok()?;
        let status = std::fs::read_to_string(folder.join("status")).ok()?;
        let waits = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        let name = name.trim().to_owned();
        let is_one = name.starts_with("network-");
        is_one.then(|| (name, waits.trim().parse().expect("a number")))
    });
    waits.collect()
}

/// Each stays on one thread, whatever else is open: each request was waited for there.
#[test]
fn connections_with_records_are_dealt_out_among_the_network_threads() {
    let (_folder, broker, mut wire) = started("wire-threads", &[("num.network.threads", "2")]);
    let topic = create(&mut wire, 1, &[]);
    produce(&mut wire, &topic, 0, batch(&["x"]));
    // It has none, and takes no place from those that do.
    let mut other = Wire::connect(&broker);
    bounds(&mut other, &topic, 0);
    let mut wires = [wire, Wire::connect(&broker)];
    let before = waits_of_network_threads(&broker);
    assert_eq!(before.len(), 2, "{before:?}");
    for _ in 0..200 {
        for wire in &mut wires {
            produce(wire, &topic, 0, batch(&["x"]));
        }
    }
    let after = waits_of_network_threads(&broker);
    for (thread, waits) in after {
        let more = waits - before[&thread];
        assert!(more >= 200, "{thread} waited {more} times for 200 requests");
    }
}
