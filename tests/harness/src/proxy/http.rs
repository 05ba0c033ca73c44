//! Where does one HTTP request end, and what happens when it arrives twice?

use std::{io, time::Duration};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A request of ours is some kilobytes; more is not taken apart.
const REQUEST_MAX: usize = 1024 * 1024;
/// Longer than a client of ours waits for the first answer.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// Requests on one connection, put together from pieces.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    buffer: Vec<u8>,
}

impl Requests {
    /// The requests that this piece makes complete. Bodies have a length; a chunked one is never complete.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Vec<Vec<u8>> {
        self.buffer.extend_from_slice(piece);
        let mut complete = Vec::new();
        while let Some(length) = message_length(&self.buffer)
            && self.buffer.len() >= length
        {
            complete.push(self.buffer.drain(..length).collect());
        }
        if self.buffer.len() > REQUEST_MAX {
            self.buffer.clear();
        }
        complete
    }
}

/// Head and body, once the head is there.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let body = String::from_utf8_lossy(bytes.get(..head)?)
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .unwrap_or(0);
    Some(head + body)
}

pub(crate) fn first_line(request: &[u8]) -> String {
    let end = request
        .iter()
        .position(|byte| *byte == b'\r')
        .unwrap_or(request.len());
    String::from_utf8_lossy(request.get(..end).unwrap_or_default()).into_owned()
}

/// Sends a request and reads its answer to the end, or for as long as a client would; nobody hears it.
pub(crate) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    server: &mut S,
    request: &[u8],
) -> io::Result<()> {
    server.write_all(request).await?;
    let mut answer = Vec::new();
    let read = async {
        let mut buffer = [0; 4_096];
        loop {
            let n = server.read(&mut buffer).await?;
            answer.extend_from_slice(buffer.get(..n).unwrap_or_default());
            let complete = message_length(&answer).is_some_and(|length| answer.len() >= length);
            if n == 0 || complete || answer.len() > REQUEST_MAX {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(ANSWER_MAX, read)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_on_one_connection() {
        let mut requests = Requests::default();
        let first = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        assert!(requests.feed(&first[..20]).is_empty());
        let mut rest = first[20..].to_vec();
        rest.extend_from_slice(b"GET /b HTTP/1.1\r\n\r\nGET");
        let complete = requests.feed(&rest);
        assert_eq!(complete.len(), 2);
        assert_eq!(complete[0], first);
        assert_eq!(first_line(&complete[1]), "GET /b HTTP/1.1");
    }
}
