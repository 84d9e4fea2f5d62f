//! What answers are written to: a TCP socket, which takes parts of files without a copy (`sendfile`). Used by `outgoing.rs`;
//! it decides nothing.

use std::io;

use ottla_storage::records::FileRecords;
use tokio::io::{AsyncWrite, Interest};
use tokio::net::tcp::OwnedWriteHalf;

/// Sent at once, so that what is not in memory is noticed.
const SEND_BYTES: usize = 1 << 20;

pub(in crate::connection) trait Socket: AsyncWrite + Unpin {
    /// Whether to wait with what does not fill a packet until there is more.
    fn gather(&mut self, on: bool);

    /// Sends of `records` what the socket takes, from byte `from` on, and says how much that was.
    async fn send_file(&mut self, records: &FileRecords, from: usize) -> io::Result<usize>;
}

impl Socket for OwnedWriteHalf {
    fn gather(&mut self, on: bool) {
        // Without it there are more packets, and nothing else differs.
        let _ = rustix::net::sockopt::set_tcp_cork(self.as_ref(), on);
    }

    async fn send_file(&mut self, records: &FileRecords, from: usize) -> io::Result<usize> {
        if !records.is_in_memory(from) {
            // The system would read it while this thread waits, and with it all others that it serves.
            let records = records.clone();
            tokio::task::spawn_blocking(move || records.bring(from)).await??;
        }
        let stream = self.as_ref();
        let mut position = records.position + from as u64;
        let send = || {
            let left = (records.size - from).min(SEND_BYTES);
            rustix::fs::sendfile(stream, &records.file, Some(&mut position), left)
                .map_err(io::Error::from)
        };
        stream.async_io(Interest::WRITABLE, send).await
    }
}

#[cfg(test)]
impl Socket for tokio::io::DuplexStream {
    fn gather(&mut self, _on: bool) {}

    async fn send_file(&mut self, records: &FileRecords, from: usize) -> io::Result<usize> {
        let bytes = records.read()?;
        tokio::io::AsyncWriteExt::write(self, &bytes[from..]).await
    }
}
