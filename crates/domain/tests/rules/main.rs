//! The rules under thousands of cases, without a store: a world of one row that is changed as a store would change it.
mod refresh;
mod sign_in;
mod world;
