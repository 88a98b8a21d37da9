//! portcullis-app
