//! portcullis-feed
