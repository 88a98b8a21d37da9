//! An answer that goes on for hours, written without hyper (RFC 9112 §7.1): between two events it holds the socket and the
//! stream that the events come from, where hyper keeps a buffer for the next request and one for the next head, 16 KiB and more.
//!
//! The connection ends with the answer, and says so. What the other side sends meanwhile is read and thrown away, so that it is
//! seen at once when it hangs up.
use super::guarded::Guarded;
use axum::body::Body;
use axum::response::Response;
use bytes::{Buf as _, Bytes};
use http::header;
use hyper::body::Body as _;
use portcullis_app::real;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// In the extensions of such an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unending;

/// The most that the other side may send after its request.
const MOST_HEARD: usize = 64 * 1024;

/// Writes the answer to its end.
pub(super) async fn write<S>(mut io: Guarded<S>, response: Response) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (head, mut body) = taken_apart(response);
    io.write_all_buf(&mut { head }).await?;
    let mut heard = 0;
    while let Some(data) = next(&mut io, &mut body, &mut heard).await? {
        if data.is_empty() {
            continue; // an empty chunk would be the last
        }
        let size = Bytes::from(format!("{:x}\r\n", data.len()));
        io.write_all_buf(&mut size.chain(data).chain(&b"\r\n"[..])).await?;
        io.flush().await?;
    }
    io.write_all(b"0\r\n\r\n").await?;
    io.flush().await?;
    io.shutdown().await
}

/// The answer's head as it is sent, and its body.
fn taken_apart(response: Response) -> (Bytes, Body) {
    let (parts, body) = response.into_parts();
    let mut head = format!("HTTP/1.1 {}\r\n", parts.status).into_bytes();
    for (name, value) in &parts.headers {
        if ![header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION].contains(name) {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
    }
    let now = UNIX_EPOCH + Duration::from_millis(u64::try_from(real::wall().0).unwrap_or(0));
    let date = httpdate::fmt_http_date(now);
    head.extend_from_slice(
        format!("date: {date}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n").as_bytes(),
    );
    (head.into(), body)
}

/// The next piece of the body; `None` at its end. An error when the other side has hung up, or the body broke.
async fn next<S>(io: &mut Guarded<S>, body: &mut Body, heard: &mut usize) -> io::Result<Option<Bytes>>
where
    S: AsyncRead + Unpin,
{
    poll_fn(|cx| {
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(None) => return Poll::Ready(Ok(None)),
            Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Ok(Some(frame.into_data().unwrap_or_default()))),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
            Poll::Pending => {}
        }
        let why = ready!(poll_gone(io, heard, cx));
        Poll::Ready(Err(why))
    })
    .await
}

/// Ready when the other side has hung up, or says too much.
fn poll_gone<S: AsyncRead + Unpin>(io: &mut Guarded<S>, heard: &mut usize, cx: &mut Context<'_>) -> Poll<io::Error> {
    let mut space = [0; 256];
    loop {
        let mut space = ReadBuf::new(&mut space);
        match ready!(Pin::new(&mut *io).poll_read(cx, &mut space)) {
            Ok(()) if space.filled().is_empty() => return Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
            Ok(()) => *heard += space.filled().len(),
            Err(error) => return Poll::Ready(error),
        }
        if *heard > MOST_HEARD {
            return Poll::Ready(io::Error::new(io::ErrorKind::InvalidData, "much was sent where nothing is expected"));
        }
    }
}
