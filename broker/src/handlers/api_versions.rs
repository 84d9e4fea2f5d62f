//! ApiVersions: what this broker serves, from the rows of the API table. Its answer is how clients choose versions, so
//! that it never names one the table does not have.

use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use ottla_protocol::error_code::ErrorCode;

use crate::router::{self, Ctx};

/// ApiVersions 0..=4.
///
/// 1 adds the throttle time; 3 is flexible but keeps response header 0 (KIP-511), brings the client's software
/// name and version, which are checked, and finalized features: none is served, so none is named.
pub async fn api_versions(ctx: Ctx, request: ApiVersionsRequest) -> ApiVersionsResponse {
    let named = ctx.api_version < 3
        || (is_software_name(&request.client_software_name)
            && is_software_name(&request.client_software_version));
    if !named {
        return ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
    }
    ApiVersionsResponse::default().with_api_keys(advertised())
}

/// A version of ApiVersions that is not known is answered in version 0 with error 35 and the list, from
/// which the client picks a lower one (KIP-511).
pub fn unsupported() -> ApiVersionsResponse {
    ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UnsupportedVersion.code())
        .with_api_keys(advertised())
}

fn advertised() -> Vec<ApiVersion> {
    router::table()
        .iter()
        .map(|route| {
            ApiVersion::default()
                .with_api_key(route.key)
                .with_min_version(route.advertised_min)
                .with_max_version(*route.versions.end())
        })
        .collect()
}

/// Letters and digits, with dots and dashes inside (Kafka's `ApiVersionsRequest.isValid`).
fn is_software_name(name: &str) -> bool {
    let word = |byte: &u8| byte.is_ascii_alphanumeric();
    let bytes = name.as_bytes();
    bytes.first().is_some_and(word)
        && bytes.last().is_some_and(word)
        && bytes
            .iter()
            .all(|byte| word(byte) || *byte == b'.' || *byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names() {
        for good in ["a", "librdkafka", "apache-kafka-java", "2.0.2", "v1.0-2"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "a b!", "-a", "a.", "ä"] {
            assert!(!is_software_name(bad), "{bad}");
        }
    }
}
