//! WebSocket: the close codes of ends (RFC 6455 §7.4).
use portcullis_wire::Code;

/// 1008 (policy violation), or 1013 (try again later) where nothing is wrong with the token. The reason beside it is
/// [`Code::as_str`].
pub const fn close_code(code: Code) -> u16 {
    if code.status() == 503 { 1013 } else { 1008 }
}
