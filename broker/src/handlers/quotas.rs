//! Client quotas: DescribeClientQuotas. There are none, and none can be set, so that every sensible filter
//! finds nothing; one without sense is refused as Kafka does (`ClientQuotasImage.describe`).

use std::collections::BTreeSet;

use kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use kafka_protocol::messages::{DescribeClientQuotasRequest, DescribeClientQuotasResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_protocol::error_code::ErrorCode;

use crate::config::value;
use crate::router::Ctx;

/// How a component matches (Kafka's `ClientQuotaFilterComponent` on the wire).
const MATCH_EXACT: i8 = 0;
const MATCH_DEFAULT: i8 = 1;
const MATCH_SPECIFIED: i8 = 2;

/// DescribeClientQuotas, versions 0 and 1, which differ in their encoding only.
pub async fn describe_client_quotas(
    _ctx: Ctx,
    request: DescribeClientQuotasRequest,
) -> DescribeClientQuotasResponse {
    describe(&request.components)
}

fn describe(components: &[ComponentData]) -> DescribeClientQuotasResponse {
    let mut response = DescribeClientQuotasResponse::default();
    match check(components) {
        Ok(()) => {
            response.error_message = Some(StrBytes::default());
            response.entries = Some(Vec::new());
        }
        Err((code, message)) => {
            response.error_code = code.code();
            response.error_message = Some(StrBytes::from_string(message));
            response.entries = None;
        }
    }
    response
}

fn check(components: &[ComponentData]) -> Result<(), (ErrorCode, String)> {
    let invalid = |message: &str| Err((ErrorCode::InvalidRequest, message.to_owned()));
    let mut types = BTreeSet::new();
    for component in components {
        let entity_type = component.entity_type.as_str();
        if entity_type.is_empty() {
            return invalid("Invalid empty entity type.");
        }
        if !types.insert(entity_type) {
            let shown = value::shown(entity_type);
            return invalid(&format!(
                "Entity type {shown} cannot appear more than once in the filter."
            ));
        }
        if !["user", "client-id", "ip"].contains(&entity_type) {
            let message = format!("Unsupported entity type {}", value::shown(entity_type));
            return Err((ErrorCode::UnsupportedVersion, message));
        }
        match (component.match_type, &component._match) {
            (MATCH_EXACT, Some(_)) | (MATCH_DEFAULT | MATCH_SPECIFIED, None) => {}
            (MATCH_EXACT, None) => {
                return invalid(
                    "Request specified MATCH_TYPE_EXACT, but set match string to null.",
                );
            }
            (MATCH_DEFAULT, Some(_)) => {
                return invalid(
                    "Request specified MATCH_TYPE_DEFAULT, but also specified a match string.",
                );
            }
            (MATCH_SPECIFIED, Some(_)) => {
                return invalid(
                    "Request specified MATCH_TYPE_SPECIFIED, but also specified a match string.",
                );
            }
            (other, _) => return invalid(&format!("Unknown match type {other}")),
        }
    }
    if types.contains("ip") && types.len() > 1 {
        return invalid(
            "Invalid entity filter component combination. IP filter component should not be used with user or clientId filter component.",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(components: &[(&str, i8, Option<&str>)]) -> (i16, bool) {
        let component = |(entity_type, match_type, text): &(&str, i8, Option<&str>)| {
            let owned = |text: &str| StrBytes::from_string(text.to_owned());
            let mut component = ComponentData::default();
            component.entity_type = owned(entity_type);
            component.match_type = *match_type;
            component._match = text.map(owned);
            component
        };
        let components: Vec<_> = components.iter().map(component).collect();
        let response = describe(&components);
        let message = response.error_message.expect("a message, maybe empty");
        assert_eq!(message.is_empty(), response.error_code == 0);
        (
            response.error_code,
            response.entries.is_some_and(|entries| entries.is_empty()),
        )
    }

    /// Measured on Apache Kafka 4.3.1.
    #[test]
    fn nothing_is_found_and_senseless_filters_are_refused() {
        for sensible in [
            &[][..],
            &[("user", 0, Some("a"))],
            &[("user", 1, None), ("client-id", 2, None)],
            &[("ip", 0, Some("not an address"))],
        ] {
            assert_eq!(asked(sensible), (0, true), "{sensible:?}");
        }
        for (senseless, code) in [
            (&[("", 0, Some("a"))][..], 42),
            (&[("nope", 0, Some("a"))], 35),
            (&[("user", 0, None)], 42),
            (&[("user", 1, Some("a"))], 42),
            (&[("user", 2, Some("a"))], 42),
            (&[("user", 9, None)], 42),
            (&[("user", 2, None), ("user", 1, None)], 42),
            (&[("user", 2, None), ("ip", 2, None)], 42),
        ] {
            assert_eq!(asked(senseless), (code, false), "{senseless:?}");
        }
    }
}
