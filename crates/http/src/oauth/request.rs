//! Authorization requests as parameters: in a query, in a form, or pushed.
use crate::request::Params;
use portcullis_domain::authorize::Request;
use portcullis_domain::client::MAX_SCOPES;

/// Takes `resource` out of a query or a form: the one parameter that may come several times (RFC 8707 §2).
///
/// # Errors
/// What `refuse` makes of the words, when another one does (RFC 6749 §3.1, §3.2), or when there are too many.
pub(crate) fn with_resources<E>(form: &[u8], refuse: impl Fn(String) -> E) -> Result<(Params, Vec<String>), E> {
    let mut pairs: Vec<(String, String)> =
        form_urlencoded::parse(form).map(|(name, value)| (name.into(), value.into())).collect();
    let resources = pairs.extract_if(.., |(name, _)| name == "resource").map(|(_, value)| value);
    let resources: Vec<String> = resources.filter(|value| !value.is_empty()).collect();
    if resources.len() > MAX_SCOPES {
        return Err(refuse(format!("there are more than {MAX_SCOPES} resources")));
    }
    let params = Params::oauth_pairs(pairs)
        .map_err(|name| refuse(format!("the parameter {name:?} is given twice (RFC 6749 §3.1)")))?;
    Ok((params, resources))
}

/// What is asked for, by parameters that name nobody.
pub(crate) fn request_of(params: &mut Params, resource: Vec<String>) -> Request {
    Request {
        response_type: params.take("response_type"),
        response_mode: params.take("response_mode"),
        redirect_uri: params.take("redirect_uri"),
        scope: params.take("scope"),
        state: params.take("state"),
        nonce: params.take("nonce"),
        code_challenge: params.take("code_challenge"),
        code_challenge_method: params.take("code_challenge_method"),
        prompt: params.take("prompt"),
        max_age: params.take("max_age"),
        login_hint: params.take("login_hint"),
        id_token_hint: params.take("id_token_hint"),
        resource,
        dpop_jkt: params.take("dpop_jkt"),
        request: params.take("request"),
        request_uri: params.take("request_uri"),
    }
}
