//! What answers are written to: a TCP socket, or in tests anything that is written to. Used by `outgoing.rs`, which says what
//! to write only once it is known that something will be taken; it decides nothing.

use std::io;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;

pub(in crate::connection) trait Socket: AsyncWrite + Unpin {
    /// Ready when it takes something, as far as it can tell before.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Socket for OwnedWriteHalf {
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.as_ref().poll_write_ready(cx)
    }
}

#[cfg(test)]
impl Socket for tokio::io::DuplexStream {
    fn poll_ready(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
