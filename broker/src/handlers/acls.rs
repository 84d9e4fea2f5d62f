//! Access control lists: DescribeAcls, CreateAcls, DeleteAcls. There is no authorizer, and each of them says
//! so, as Kafka does without one: consoles ask, and take any other error for a fault.
//!
//! Called by the router. What a request asks for is not looked at: Kafka closes the connection when a filter
//! has a kind or operation that it does not know, here such a one gets the same answer as the others.

use kafka_protocol::messages::create_acls_response::AclCreationResult;
use kafka_protocol::messages::delete_acls_response::DeleteAclsFilterResult;
use kafka_protocol::messages::{
    CreateAclsRequest, CreateAclsResponse, DeleteAclsRequest, DeleteAclsResponse,
    DescribeAclsRequest, DescribeAclsResponse,
};
use kafka_protocol::protocol::StrBytes;
use ottla_protocol::error_code::ErrorCode;

use crate::router::Ctx;

const CODE: ErrorCode = ErrorCode::SecurityDisabled;
const MESSAGE: &str = "No Authorizer is configured.";

fn message() -> Option<StrBytes> {
    Some(StrBytes::from_static_str(MESSAGE))
}

/// DescribeAcls, versions 1 to 3: SECURITY_DISABLED.
pub async fn describe_acls(_ctx: Ctx, _request: DescribeAclsRequest) -> DescribeAclsResponse {
    let mut response = DescribeAclsResponse::default();
    response.error_code = CODE.code();
    response.error_message = message();
    response
}

/// CreateAcls, versions 1 to 3: SECURITY_DISABLED for each entry.
pub async fn create_acls(_ctx: Ctx, request: CreateAclsRequest) -> CreateAclsResponse {
    let refused = |_| {
        let mut result = AclCreationResult::default();
        result.error_code = CODE.code();
        result.error_message = message();
        result
    };
    let mut response = CreateAclsResponse::default();
    response.results = request.creations.into_iter().map(refused).collect();
    response
}

/// DeleteAcls, versions 1 to 3: SECURITY_DISABLED for each filter.
pub async fn delete_acls(_ctx: Ctx, request: DeleteAclsRequest) -> DeleteAclsResponse {
    let refused = |_| {
        let mut result = DeleteAclsFilterResult::default();
        result.error_code = CODE.code();
        result.error_message = message();
        result
    };
    let mut response = DeleteAclsResponse::default();
    response.filter_results = request.filters.into_iter().map(refused).collect();
    response
}
