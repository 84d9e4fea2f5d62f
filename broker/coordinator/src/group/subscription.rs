//! Reads the topics out of a consumer's subscription (`ConsumerProtocolSubscription.json` of Kafka). Called where
//! a group's topics matter: deletion and expiry of offsets. Pure; never panics; allocates by the bytes at hand.

use crate::wire::{Reader, WireError};

/// The protocol type of consumers; others' metadata is their own.
pub(super) const CONSUMER: &str = "consumer";

/// The topics of a subscription. Every version begins with the fields of version 0, so these are all that is read.
pub(super) fn topics(subscription: &[u8]) -> Result<Vec<&str>, WireError> {
    let mut reader = Reader::new(subscription);
    reader.i16()?; // version
    let count = reader.plain_array_len(size_of::<i16>())?;
    (0..count).map(|_| reader.plain_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_and_the_rest_is_not() {
        let bytes = b"\0\x03\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff rest";
        assert_eq!(topics(bytes), Ok(vec!["a", "bc"]));
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(topics(b"").is_err());
        assert!(topics(b"\0\0\x7f\xff\xff\xff").is_err());
        assert!(topics(b"\0\0\xff\xff\xff\xff").is_err());
        assert!(topics(b"\0\0\0\0\0\x01\xff\xff").is_err());
        assert!(topics(b"\0\0\0\0\0\x01\0\x09abc").is_err());
    }
}
