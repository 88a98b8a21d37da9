//! Addresses for what is started later, or started again. What `cargo xtask` starts has them from here, too.
use std::hash::{BuildHasher as _, RandomState};
use std::net::{SocketAddr, TcpListener};

/// Linux gives out ports from [`GIVEN_OUT`] on, to outgoing calls as well (`ip_local_port_range`).
const FIRST: u16 = 20_000;
const GIVEN_OUT: u16 = 32_768;

/// A port of the loopback that nobody gets by chance between now and when it is listened at: below those that the system gives
/// out, which may lend one that was free a moment ago to an outgoing call.
pub fn lasting_address() -> SocketAddr {
    loop {
        let drawn = RandomState::new().hash_one(FIRST) % u64::from(GIVEN_OUT - FIRST);
        let address = SocketAddr::from(([127, 0, 0, 1], FIRST + u16::try_from(drawn).unwrap_or_default()));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
