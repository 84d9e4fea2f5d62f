//! Why a client command ends without success, and the exit code that scripts see.
//!
//! Every client command returns it; `run.rs` prints it as one line and ends the process. It names the thing, the
//! value and the way out, and is never made from a panic.

use std::fmt::{self, Display, Formatter};
use std::io;

use ottla_protocol::error_code::ErrorCode;

/// The exit code when the broker refused, or when what was named does not exist.
pub const EXIT_REFUSED: u8 = 1;
/// The exit code when no broker could be reached, or none answered in time. (4 is taken: `serve` lost its disk.)
pub const EXIT_UNREACHABLE: u8 = 3;

/// Who has to change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The caller: the command line makes no sense.
    Usage,
    /// The broker said no, or something is not there.
    Refused,
    /// The network, or a broker that is not running.
    Unreachable,
    /// Nobody: who reads our output has seen enough.
    OutputClosed,
    /// It was said already, and the exit code is all that is left.
    Said(u8),
}

/// A command's end without success.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Whose turn it is.
    pub kind: Kind,
    /// The broker's error code, where one was told.
    pub code: Option<ErrorCode>,
    text: String,
}

/// What client commands return.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// The command line makes no sense.
    pub fn usage(text: impl Display) -> Self {
        Self::new(Kind::Usage, text)
    }

    /// The broker said no in other ways than with an error code, or something is not there.
    pub fn refused(text: impl Display) -> Self {
        Self::new(Kind::Refused, text)
    }

    /// No broker, or no answer.
    pub fn unreachable(text: impl Display) -> Self {
        Self::new(Kind::Unreachable, text)
    }

    /// Everything was said; the process ends with this code.
    pub fn ended(exit_code: u8) -> Self {
        Self::new(Kind::Said(exit_code), "")
    }

    /// Whether nothing is left to be said.
    pub fn is_said(&self) -> bool {
        matches!(self.kind, Kind::Said(_))
    }

    /// The broker answered with an error code, and perhaps a message of its own.
    pub fn told(what: impl Display, code: i16, message: Option<&str>) -> Self {
        let known = ErrorCode::from_code(code);
        let name = known.map_or_else(|| format!("error {code}"), |code| code.name().to_owned());
        let message = message
            .map(|message| message.trim_end_matches('.'))
            .filter(|message| !message.is_empty())
            .or(known.map(ErrorCode::message))
            .unwrap_or("an error that this version does not know");
        Self {
            code: known,
            ..Self::refused(format_args!("{what}: {message} ({name})"))
        }
    }

    /// With the way out behind it.
    pub fn hint(mut self, hint: impl Display) -> Self {
        self.text = format!("{}; {hint}", self.text);
        self
    }

    /// Standard output failed.
    pub fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::new(Kind::OutputClosed, "output was closed")
        } else {
            Self::refused(format_args!("cannot write to standard output: {error}"))
        }
    }

    /// What the process ends with.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => super::EXIT_USAGE,
            Kind::Refused => EXIT_REFUSED,
            Kind::Unreachable => EXIT_UNREACHABLE,
            Kind::OutputClosed => 0,
            Kind::Said(exit_code) => exit_code,
        }
    }

    /// Whether the same request may succeed in a moment.
    pub fn retriable(&self) -> bool {
        self.code.is_some_and(ErrorCode::retriable)
    }

    fn new(kind: Kind, text: impl Display) -> Self {
        Self {
            kind,
            code: None,
            text: text.to_string(),
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_with_its_name_and_the_brokers_own_words() {
        let failure = Failure::told("topic t", 3, None).hint("create it");
        assert!(failure.to_string().starts_with("topic t: "));
        assert!(
            failure
                .to_string()
                .ends_with("(UNKNOWN_TOPIC_OR_PARTITION); create it")
        );
        assert_eq!(failure.exit_code(), EXIT_REFUSED);
        assert!(failure.retriable());
        let failure = Failure::told("topic t", 40, Some("no such config."));
        assert_eq!(
            failure.to_string(),
            "topic t: no such config (INVALID_CONFIG)"
        );
        let failure = Failure::told("x", 9_999, Some(""));
        assert!(failure.to_string().ends_with("(error 9999)"));
    }

    #[test]
    fn each_kind_has_its_exit_code() {
        assert_eq!(Failure::usage("").exit_code(), 2);
        assert_eq!(Failure::unreachable("").exit_code(), 3);
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::output(&closed).exit_code(), 0);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Failure::output(&full).exit_code(), 1);
    }
}
