//! A socket with patience that ends: one that takes no bytes for too long, or that never sends a first request, is dropped.
//!
//! The time limit on headers of HTTP/1 begins once the protocol is known, and finding that out has none of its own; so the
//! first request is waited for here.
use super::Limits;
use crate::traffic::Traffic;
use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

pub(super) struct Guarded<S> {
    inner: S,
    stall_time: Duration,
    /// Runs while the socket takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
    /// Runs until the first request has come.
    first: Option<Pin<Box<Sleep>>>,
    served: Arc<AtomicBool>,
    traffic: Arc<Traffic>,
}

impl<S> Guarded<S> {
    pub(super) fn new(inner: S, limits: &Limits, served: Arc<AtomicBool>, traffic: Arc<Traffic>) -> Self {
        let first = Some(Box::pin(tokio::time::sleep(limits.header_time)));
        Self { inner, stall_time: limits.stall_time, stall: None, first, served, traffic }
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

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.first.is_some() && this.served.load(Ordering::Acquire) {
            this.first = None;
        }
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        if read.is_ready() {
            return read;
        }
        let Some(first) = &mut this.first else { return Poll::Pending };
        ready!(first.as_mut().poll(cx));
        Traffic::add(&this.traffic.silent);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no request came")))
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
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
