//! portcullis-verify
