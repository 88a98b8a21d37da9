//! A socket with patience that ends: one that takes no bytes for too long, or that never sends a first request, is dropped.
//!
//! The time limit on headers of HTTP/1 begins once the protocol is known, and finding that out has none of its own; so the
//! first request is waited for here, and which protocol it is is found out here, too: what was read for that and what follows
//! are then given in one piece. In two, hyper would take twice the room for the head, and keep it.
use super::Limits;
use super::connection::Left;
use crate::traffic::Traffic;
use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What HTTP/2 begins with (RFC 9113 §3.4).
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) struct Guarded<S> {
    inner: S,
    stall_time: Duration,
    /// Runs while the socket takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
    /// Runs until the first request has come.
    first: Option<Pin<Box<Sleep>>>,
    left: Arc<Left>,
    traffic: Arc<Traffic>,
    /// The first bytes, of which as many were read to know the protocol, and as many were handed on since.
    start: [u8; PREFACE.len()],
    known: usize,
    handed_on: usize,
}

impl<S> Guarded<S> {
    pub(super) fn new(inner: S, limits: &Limits, left: Arc<Left>, traffic: Arc<Traffic>) -> Self {
        let first = Some(Box::pin(tokio::time::sleep(limits.header_time)));
        let start = [0; PREFACE.len()];
        Self { inner, stall_time: limits.stall_time, stall: None, first, left, traffic, start, known: 0, handed_on: 0 }
    }

    fn written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let limit = self.stall_time;
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stall.as_mut().poll(cx));
        Traffic::add(&self.traffic.stalled);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the socket takes no bytes")))
    }
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    /// Whether what comes is HTTP/2: read until that is clear, and kept for who reads next.
    pub(super) async fn speaks_http2(&mut self) -> io::Result<bool> {
        while self.known < PREFACE.len() && self.start[..self.known] == PREFACE[..self.known] {
            let (mut start, known) = (self.start, self.known);
            let mut room = ReadBuf::new(&mut start[known..]);
            poll_fn(|cx| self.poll_more(cx, &mut room)).await?;
            let read = room.filled().len();
            if read == 0 {
                break; // whoever reads next sees the end, too
            }
            (self.start, self.known) = (start, known + read);
        }
        Ok(self.start[..self.known] == PREFACE)
    }

    fn poll_more(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_some() && self.left.served.load(Ordering::Acquire) {
            self.first = None;
        }
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_ready() {
            return read;
        }
        let Some(first) = &mut self.first else { return Poll::Pending };
        ready!(first.as_mut().poll(cx));
        Traffic::add(&self.traffic.silent);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no request came")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.handed_on == this.known {
            return this.poll_more(cx, buf);
        }
        let start = &this.start[this.handed_on..this.known];
        let start = &start[..start.len().min(buf.remaining())];
        buf.put_slice(start);
        this.handed_on += start.len();
        if buf.remaining() > 0 {
            // What is wrong now is still wrong when it is read for next.
            let _ = this.poll_more(cx, buf);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.written(cx, written)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.written(cx, written)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.written(cx, flushed)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.written(cx, done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// What is found out of these pieces, and what is read afterwards.
    async fn found(pieces: &[&[u8]]) -> (bool, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut guarded = Guarded::new(server, &Limits::default(), Arc::default(), Arc::default());
        let write = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let (http2, ()) = tokio::join!(guarded.speaks_http2(), write);
        let mut all = Vec::new();
        guarded.read_to_end(&mut all).await.unwrap();
        (http2.unwrap(), all)
    }

    #[tokio::test]
    async fn the_protocol_is_known_from_its_first_bytes_and_none_is_lost() {
        let http1: &[u8] = b"PROPFIND /somewhere/quite/far/away HTTP/1.1\r\n\r\n";
        let http2 = [&PREFACE[..], b"and frames"].concat();
        for at in 0..24 {
            assert_eq!(found(&[&http1[..at], &http1[at..]]).await, (false, http1.to_vec()), "{at}");
            assert_eq!(found(&[&http2[..at], &http2[at..]]).await, (true, http2.clone()), "{at}");
            assert_eq!(found(&[&PREFACE[..at]]).await, (false, PREFACE[..at].to_vec()), "{at}");
        }
        let bytes: Vec<&[u8]> = http2.chunks(1).collect();
        assert_eq!(found(&bytes).await, (true, http2.clone()));
    }

    #[tokio::test]
    async fn what_was_read_already_and_what_follows_come_in_one_piece() {
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(b"GET / HTTP/1.1\r\nhost: somewhere.example\r\n\r\n").await.unwrap();
        let mut guarded = Guarded::new(server, &Limits::default(), Arc::default(), Arc::default());
        assert!(!guarded.speaks_http2().await.unwrap());
        let mut room = [0; 1024];
        assert_eq!(guarded.read(&mut room).await.unwrap(), 43);
    }
}
