//! A service that looks at no token.
#![allow(clippy::print_stdout, reason = "a measurement")]

fn main() {
    let said: Vec<String> = std::env::args().skip(1).collect();
    println!("{} {}", said.len(), said.join(" "));
}
