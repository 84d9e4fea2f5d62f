//! ApiVersions, and what happens outside of the advertised versions.

use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, ProduceRequest};
use kafka_protocol::protocol::HeaderVersion;
use ottla::router;
use ottla_integration_tests::wire::{self, Wire};

use crate::requests::{NONE, batch, bounds, create, metadata_request, produce_request, text};
use crate::{Stage, started};

fn client(name: &str) -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name(text(name))
        .with_client_software_version(text("1.0"))
}

fn request(version: i16) -> ApiVersionsRequest {
    if version >= 3 {
        client("wire-test")
    } else {
        ApiVersionsRequest::default()
    }
}

fn advertised(response: &ApiVersionsResponse) -> Vec<(i16, i16, i16)> {
    let range = |api: &kafka_protocol::messages::api_versions_response::ApiVersion| {
        (api.api_key, api.min_version, api.max_version)
    };
    response.api_keys.iter().map(range).collect()
}

fn table() -> Vec<(i16, i16, i16)> {
    router::table()
        .iter()
        .map(|route| (route.key, route.advertised_min, *route.versions.end()))
        .collect()
}

pub fn api_versions_succeeds(stage: &mut Stage, version: i16) {
    let response = stage.wire.ask(version, &request(version));
    assert_eq!(response.error_code, NONE);
    assert_eq!(response.throttle_time_ms, 0);
    assert_eq!(advertised(&response), table());
    assert!(response.finalized_features.is_empty(), "{response:?}");
    assert!(response.supported_features.is_empty(), "{response:?}");
}

/// Before version 3 there is nothing in the request that could be wrong but its version.
pub fn api_versions_fails(stage: &mut Stage, version: i16) {
    if version >= 3 {
        let response = stage.wire.ask(version, &client("not a name!"));
        assert_eq!(response.error_code, 42);
        assert!(response.api_keys.is_empty());
    } else {
        let response = unknown_version(&mut stage.wire, 5 + version);
        assert_eq!(response.error_code, 35);
    }
}

/// For rows whose request holds nothing that Kafka has an error for: only a newer version is refused, by closing.
pub fn newer_version_fails(stage: &mut Stage, version: i16) {
    let mut wire = stage.another();
    wire.write(&wire::frame(
        ApiKey::ListPartitionReassignments as i16,
        version + 1,
        1,
        2,
        &[0; 8],
    ));
    wire.expect_close();
}

/// ApiVersions at a version that is not known: the answer is read as version 0, whatever was asked.
fn unknown_version(wire: &mut Wire, version: i16) -> ApiVersionsResponse {
    // A body no older broker can understand.
    let body = b"\x0awire-test\x041.0\x00";
    wire.write(&wire::frame(
        ApiKey::ApiVersions as i16,
        version,
        4711,
        2,
        body,
    ));
    let mut frame = wire.read_frame().expect("an answer");
    wire::decode(&mut frame, 4711, 0)
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_in_version_0_with_the_whole_list() {
    let (_folder, _broker, mut wire) = started("wire-unknown-version", &[]);
    for version in [5, 6, 127, i16::MAX, -1, i16::MIN] {
        let response = unknown_version(&mut wire, version);
        assert_eq!(response.error_code, 35, "v{version}");
        assert_eq!(advertised(&response), table());
        let own = response.api_keys.iter().find(|api| api.api_key == 18);
        let own = own.expect("key 18 is in the list");
        assert_eq!((own.min_version, own.max_version), (0, 4));
    }
    // The connection goes on, as franz-go relies on when it asks for version 5 first.
    assert_eq!(wire.ask(4, &request(4)).error_code, NONE);
}

#[test]
fn api_versions_answers_have_header_0_at_every_version_and_produce_is_advertised_from_0() {
    for version in 0..=4 {
        assert_eq!(
            ApiVersionsResponse::header_version(version),
            0,
            "what the codec reads with"
        );
    }
    let (_folder, _broker, mut wire) = started("wire-header", &[]);
    for version in 0..=4_i16 {
        let (frame, _ticket) = wire.frame(version, &request(version));
        wire.write(&frame);
        let answer = wire.read_frame().expect("an answer");
        // The correlation id, then at once the error code, then the list.
        assert_eq!(answer[..4], i32::from(version + 1).to_be_bytes());
        assert_eq!(answer[4..6], [0, 0], "v{version}");
        let count = if version >= 3 {
            usize::from(answer[6]) - 1
        } else {
            usize::from(answer[9])
        };
        assert_eq!(count, router::table().len(), "v{version}");
    }
    assert_eq!(table()[0], (0, 0, 13));
}

#[test]
fn produce_0_to_2_closes_the_connection_behind_the_answers_of_what_came_before() {
    let (_folder, broker, mut wire) = started("wire-old-produce", &[]);
    let topic = create(&mut wire, 1, &[]);
    for version in 0..=2 {
        let mut wire = Wire::connect(&broker);
        let (good, ticket) =
            wire.frame(9, &produce_request(9, -1, &[(&topic, 0, batch(&["kept"]))]));
        let body = b"\xff\xff\x00\x00\x27\x10\x00\x00\x00\x00";
        let old = wire::frame(ApiKey::Produce as i16, version, 99, 1, body);
        wire.write(&[good, old].concat());
        let response = wire.receive::<ProduceRequest>(ticket);
        let base_offset = response.responses[0].partition_responses[0].base_offset;
        assert_eq!(base_offset, i64::from(version));
        wire.expect_close();
    }
    assert_eq!(bounds(&mut wire, &topic, 0), (0, 3));
}

#[test]
fn versions_outside_of_a_row_and_unknown_keys_close_the_connection() {
    let (_folder, broker, mut wire) = started("wire-outside", &[]);
    let mut outside = vec![(4, 0), (99, 0), (-1, 0), (i16::MAX, i16::MAX), (58, 0)];
    for route in router::table() {
        if route.key != ApiKey::ApiVersions as i16 {
            outside.push((route.key, route.versions.end() + 1));
            outside.push((route.key, route.versions.start() - 1));
        }
    }
    for (key, version) in outside {
        println!("key {key} v{version}");
        let mut wire = Wire::connect(&broker);
        wire.write(&wire::frame(key, version, 1, 2, &[0; 16]));
        wire.expect_close();
    }
    let response = wire.ask(13, &metadata_request(Some(&[])));
    assert_eq!(response.error_code, NONE, "other connections go on");
}
