//! Every route of the API, and what lies around all of them.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use tower::Layer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tower_http::normalize_path::{NormalizePath, NormalizePathLayer};
use tower_http::timeout::TimeoutLayer;

use super::caller::Caller;
use super::failure::Failure;
use super::{Api, Settings, WHOLE, groups, reads, writes};

/// How long a browser may remember the answer to a preflight.
const PREFLIGHT_AGE: std::time::Duration = std::time::Duration::from_secs(3_600);

fn routes() -> Router<Api> {
    Router::new()
        .route("/{app}/getInfo", get(reads::info))
        .route("/{app}/{user}/conversations", get(reads::conversations))
        .route(
            "/{app}/{user}/conversations/archived",
            get(reads::archived_conversations),
        )
        .route(
            "/{app}/{user}/archived_conversations",
            get(reads::archived_conversations),
        )
        .route(
            "/{app}/{user}/conversations/{peer}",
            get(reads::conversation),
        )
        .route(
            "/{app}/{user}/archived_conversations/{peer}",
            get(reads::archived_conversation),
        )
        .route(
            "/{app}/{user}/conversations/{peer}/messages",
            get(reads::messages),
        )
        .route("/{app}/messages", post(writes::message))
        .route("/{app}/conversations/{peer}", delete(writes::archive))
        .route("/{app}/typings/{recipient}", put(writes::typing))
        .route("/{app}/groups", post(groups::create))
        .route(
            "/{app}/groups/{group}",
            get(reads::group).put(groups::rename),
        )
        .route(
            "/{app}/groups/{group}/attributes",
            put(groups::set_attributes),
        )
        .route(
            "/{app}/groups/{group}/members",
            post(groups::add_member).put(groups::set_members),
        )
        .route(
            "/{app}/groups/{group}/members/{member}",
            delete(groups::remove_member),
        )
}

/// All routes with what lies around them.
pub(super) fn service(api: Api, settings: &Settings) -> NormalizePath<Router> {
    let outside = Router::new()
        .route("/", get(reads::root))
        .route("/verify", get(reads::verify));
    let all = match settings.base.as_str() {
        "" => outside.merge(routes()),
        base => outside.nest(base, routes()),
    };
    let all = all
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .layer(DefaultBodyLimit::max(settings.max_body))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            WHOLE,
        ))
        .layer(from_fn(finish))
        .layer(cors(settings.origins.as_deref()))
        .layer(from_fn(preflight))
        .with_state(api);
    NormalizePathLayer::trim_trailing_slash().layer(all)
}

/// Unknown routes tell no stranger what there is.
async fn no_route(_: Caller) -> Failure {
    Failure::NoRoute
}

/// Nothing of an answer is kept on the way: it is about one user.
async fn finish(request: Request<axum::body::Body>, next: Next) -> Response {
    let mut response = next.run(request).await;
    let value = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, value);
    response
}

/// A preflight is answered with 204, as stock clients' server does.
async fn preflight(request: Request<axum::body::Body>, next: Next) -> Response {
    let is_preflight = request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    if is_preflight && response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    response
}

fn cors(origins: Option<&[String]>) -> CorsLayer {
    let origin = match origins {
        None => AllowOrigin::any(),
        Some(origins) => {
            let origins = origins.iter().filter_map(|origin| origin.parse().ok());
            AllowOrigin::list(origins)
        }
    };
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::PUT,
            Method::PATCH,
            Method::POST,
            Method::DELETE,
        ])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::RETRY_AFTER])
        .max_age(PREFLIGHT_AGE)
}
