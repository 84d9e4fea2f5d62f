//! What a topic may be called. Pure functions of names, used by the machine and by handlers.

use super::MetadataError;

/// The metadata partition's name in Kafka: reserved, never a topic.
pub const CLUSTER_METADATA: &str = "__cluster_metadata";
/// The topic of committed offsets and groups.
pub const CONSUMER_OFFSETS: &str = "__consumer_offsets";
/// The topic of transactions.
pub const TRANSACTION_STATE: &str = "__transaction_state";

const MAX_NAME_LENGTH: usize = 249;

/// Whether the broker itself keeps its state in this topic.
pub fn is_internal(name: &str) -> bool {
    name == CONSUMER_OFFSETS || name == TRANSACTION_STATE
}

/// Whether a topic may have this name, apart from what exists already.
pub fn validate(name: &str) -> Result<(), MetadataError> {
    let reason = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.chars().count() > MAX_NAME_LENGTH {
        // Whole, it could be longer than a message of the protocol.
        let begin: String = name.chars().take(MAX_NAME_LENGTH).collect();
        format!(
            "the length of '{begin}...' is longer than the max allowed length {MAX_NAME_LENGTH}"
        )
    } else if !name.bytes().all(is_name_byte) {
        format!(
            "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        )
    } else {
        return Ok(());
    };
    Err(MetadataError::InvalidTopicName(format!(
        "Topic name is invalid: {reason}"
    )))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// Whether two names differ in nothing but '.' against '_': metric names map both to '_', so Kafka
/// does not let two such topics exist.
pub fn collide(a: &str, b: &str) -> bool {
    let mapped = |byte: u8| if byte == b'.' { b'_' } else { byte };
    a != b && a.len() == b.len() && a.bytes().map(mapped).eq(b.bytes().map(mapped))
}

/// The part of a name before the first character that a colliding name may differ in; `None` when
/// no other name can collide with it.
pub(super) fn collision_prefix(name: &str) -> Option<&str> {
    name.find(['.', '_']).map(|at| &name[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        let longest = "x".repeat(249);
        for good in [
            "a",
            "a.b",
            "a_b-C.9",
            "...",
            "__consumer_offsets",
            longest.as_str(),
        ] {
            assert_eq!(validate(good), Ok(()), "{good}");
        }
        let too_long = "x".repeat(250);
        for bad in ["", ".", "..", "a b", "a/b", "ä", "a\0", too_long.as_str()] {
            assert!(
                matches!(validate(bad), Err(MetadataError::InvalidTopicName(_))),
                "{bad}"
            );
        }
        assert_eq!(
            validate(".").unwrap_err().to_string(),
            "Topic name is invalid: '.' is not allowed"
        );
    }

    #[test]
    fn dot_and_underscore_collide() {
        assert!(collide("a.b", "a_b"));
        assert!(collide("a.b_c", "a_b.c"));
        assert!(!collide("a.b", "a.b"));
        assert!(!collide("a.b", "a-b"));
        assert!(!collide("ab", "a_b"));
        assert_eq!(collision_prefix("ab_c.d"), Some("ab"));
        assert_eq!(collision_prefix("abc"), None);
    }
}
