//! portcullis-tower
