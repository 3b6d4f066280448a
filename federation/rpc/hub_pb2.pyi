from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EnrolRequest(_message.Message):
    __slots__ = ("secret", "csr", "identity", "signature", "version")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    secret: bytes
    csr: str
    identity: bytes
    signature: bytes
    version: str
    def __init__(self, secret: _Optional[bytes] = ..., csr: _Optional[str] = ..., identity: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., version: _Optional[str] = ...) -> None: ...

class EnrolReply(_message.Message):
    __slots__ = ("name", "role", "certificate", "authority", "api", "fleet", "flower_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    API_FIELD_NUMBER: _ClassVar[int]
    FLEET_FIELD_NUMBER: _ClassVar[int]
    FLOWER_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: str
    certificate: str
    authority: str
    api: str
    fleet: str
    flower_id: int
    def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., certificate: _Optional[str] = ..., authority: _Optional[str] = ..., api: _Optional[str] = ..., fleet: _Optional[str] = ..., flower_id: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version", "holdings", "runs", "audit_seq", "audit_hash")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HOLDINGS_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    AUDIT_SEQ_FIELD_NUMBER: _ClassVar[int]
    AUDIT_HASH_FIELD_NUMBER: _ClassVar[int]
    version: str
    holdings: _containers.RepeatedCompositeFieldContainer[Holding]
    runs: _containers.RepeatedScalarFieldContainer[str]
    audit_seq: int
    audit_hash: str
    def __init__(self, version: _Optional[str] = ..., holdings: _Optional[_Iterable[_Union[Holding, _Mapping]]] = ..., runs: _Optional[_Iterable[str]] = ..., audit_seq: _Optional[int] = ..., audit_hash: _Optional[str] = ...) -> None: ...

class Holding(_message.Message):
    __slots__ = ("dataset", "contract_hash", "people", "contract")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_HASH_FIELD_NUMBER: _ClassVar[int]
    PEOPLE_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    contract_hash: str
    people: int
    contract: str
    def __init__(self, dataset: _Optional[str] = ..., contract_hash: _Optional[str] = ..., people: _Optional[int] = ..., contract: _Optional[str] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("welcome", "proposal", "wake", "ended")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    WAKE_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    proposal: Proposal
    wake: Wake
    ended: Ended
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., proposal: _Optional[_Union[Proposal, _Mapping]] = ..., wake: _Optional[_Union[Wake, _Mapping]] = ..., ended: _Optional[_Union[Ended, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("now", "head_seq", "head_hash", "version")
    NOW_FIELD_NUMBER: _ClassVar[int]
    HEAD_SEQ_FIELD_NUMBER: _ClassVar[int]
    HEAD_HASH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    now: float
    head_seq: int
    head_hash: str
    version: str
    def __init__(self, now: _Optional[float] = ..., head_seq: _Optional[int] = ..., head_hash: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class Proposal(_message.Message):
    __slots__ = ("study", "contract_hash", "certificate", "signature", "nodes", "deadline", "rehearsal", "number", "contracts", "roles")
    class ContractsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class RolesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STUDY_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_HASH_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    REHEARSAL_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    CONTRACTS_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    study: str
    contract_hash: str
    certificate: str
    signature: bytes
    nodes: _containers.RepeatedScalarFieldContainer[str]
    deadline: float
    rehearsal: bool
    number: int
    contracts: _containers.ScalarMap[str, str]
    roles: _containers.ScalarMap[str, str]
    def __init__(self, study: _Optional[str] = ..., contract_hash: _Optional[str] = ..., certificate: _Optional[str] = ..., signature: _Optional[bytes] = ..., nodes: _Optional[_Iterable[str]] = ..., deadline: _Optional[float] = ..., rehearsal: _Optional[bool] = ..., number: _Optional[int] = ..., contracts: _Optional[_Mapping[str, str]] = ..., roles: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Wake(_message.Message):
    __slots__ = ("seconds", "every")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    EVERY_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    every: float
    def __init__(self, seconds: _Optional[float] = ..., every: _Optional[float] = ...) -> None: ...

class Ended(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("study_hash", "verdict", "reason", "by", "at", "signature", "rehearsal", "run")
    STUDY_HASH_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    REHEARSAL_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    study_hash: str
    verdict: str
    reason: str
    by: str
    at: str
    signature: bytes
    rehearsal: bool
    run: str
    def __init__(self, study_hash: _Optional[str] = ..., verdict: _Optional[str] = ..., reason: _Optional[str] = ..., by: _Optional[str] = ..., at: _Optional[str] = ..., signature: _Optional[bytes] = ..., rehearsal: _Optional[bool] = ..., run: _Optional[str] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr",)
    CSR_FIELD_NUMBER: _ClassVar[int]
    csr: str
    def __init__(self, csr: _Optional[str] = ...) -> None: ...

class Parcel(_message.Message):
    __slots__ = ("study_hash", "attempt", "receiver", "kind", "number", "is_last", "content", "sha256")
    STUDY_HASH_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    study_hash: str
    attempt: str
    receiver: str
    kind: str
    number: int
    is_last: bool
    content: bytes
    sha256: bytes
    def __init__(self, study_hash: _Optional[str] = ..., attempt: _Optional[str] = ..., receiver: _Optional[str] = ..., kind: _Optional[str] = ..., number: _Optional[int] = ..., is_last: _Optional[bool] = ..., content: _Optional[bytes] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class ParcelRequest(_message.Message):
    __slots__ = ("study_hash", "attempt", "sender", "kind", "number")
    STUDY_HASH_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    study_hash: str
    attempt: str
    sender: str
    kind: str
    number: int
    def __init__(self, study_hash: _Optional[str] = ..., attempt: _Optional[str] = ..., sender: _Optional[str] = ..., kind: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class ParcelReply(_message.Message):
    __slots__ = ("is_there", "is_last", "content", "sha256")
    IS_THERE_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    is_there: bool
    is_last: bool
    content: bytes
    sha256: bytes
    def __init__(self, is_there: _Optional[bool] = ..., is_last: _Optional[bool] = ..., content: _Optional[bytes] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: str
    def __init__(self, certificate: _Optional[str] = ...) -> None: ...

class RosterReply(_message.Message):
    __slots__ = ("nodes",)
    class NodesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.ScalarMap[str, bytes]
    def __init__(self, nodes: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("study", "contract", "signature", "deadline_s", "nodes", "number", "deadline", "rehearsal", "contracts")
    class ContractsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STUDY_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    REHEARSAL_FIELD_NUMBER: _ClassVar[int]
    CONTRACTS_FIELD_NUMBER: _ClassVar[int]
    study: str
    contract: str
    signature: bytes
    deadline_s: float
    nodes: _containers.RepeatedScalarFieldContainer[str]
    number: int
    deadline: float
    rehearsal: bool
    contracts: _containers.ScalarMap[str, str]
    def __init__(self, study: _Optional[str] = ..., contract: _Optional[str] = ..., signature: _Optional[bytes] = ..., deadline_s: _Optional[float] = ..., nodes: _Optional[_Iterable[str]] = ..., number: _Optional[int] = ..., deadline: _Optional[float] = ..., rehearsal: _Optional[bool] = ..., contracts: _Optional[_Mapping[str, str]] = ...) -> None: ...

class DraftReply(_message.Message):
    __slots__ = ("number", "nodes", "deadline")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    number: int
    nodes: _containers.RepeatedScalarFieldContainer[str]
    deadline: float
    def __init__(self, number: _Optional[int] = ..., nodes: _Optional[_Iterable[str]] = ..., deadline: _Optional[float] = ...) -> None: ...

class StudyRequest(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: str
    def __init__(self, study: _Optional[str] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("max_studies",)
    MAX_STUDIES_FIELD_NUMBER: _ClassVar[int]
    max_studies: int
    def __init__(self, max_studies: _Optional[int] = ...) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("studies",)
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    studies: _containers.RepeatedCompositeFieldContainer[Status]
    def __init__(self, studies: _Optional[_Iterable[_Union[Status, _Mapping]]] = ...) -> None: ...

class NodeState(_message.Message):
    __slots__ = ("node", "verdict", "reason", "online", "people")
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ONLINE_FIELD_NUMBER: _ClassVar[int]
    PEOPLE_FIELD_NUMBER: _ClassVar[int]
    node: str
    verdict: str
    reason: str
    online: bool
    people: int
    def __init__(self, node: _Optional[str] = ..., verdict: _Optional[str] = ..., reason: _Optional[str] = ..., online: _Optional[bool] = ..., people: _Optional[int] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("number", "study", "study_hash", "coordinator", "state", "reason", "progress", "submitted", "deadline", "started", "finished", "nodes", "rounds_done", "rounds_to_come", "seconds_left")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    STUDY_HASH_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_DONE_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_TO_COME_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    number: int
    study: str
    study_hash: str
    coordinator: str
    state: str
    reason: str
    progress: str
    submitted: float
    deadline: float
    started: float
    finished: float
    nodes: _containers.RepeatedCompositeFieldContainer[NodeState]
    rounds_done: int
    rounds_to_come: int
    seconds_left: float
    def __init__(self, number: _Optional[int] = ..., study: _Optional[str] = ..., study_hash: _Optional[str] = ..., coordinator: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., progress: _Optional[str] = ..., submitted: _Optional[float] = ..., deadline: _Optional[float] = ..., started: _Optional[float] = ..., finished: _Optional[float] = ..., nodes: _Optional[_Iterable[_Union[NodeState, _Mapping]]] = ..., rounds_done: _Optional[int] = ..., rounds_to_come: _Optional[int] = ..., seconds_left: _Optional[float] = ...) -> None: ...

class ResultReply(_message.Message):
    __slots__ = ("document",)
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    document: str
    def __init__(self, document: _Optional[str] = ...) -> None: ...

class PlanReply(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeState]
    def __init__(self, nodes: _Optional[_Iterable[_Union[NodeState, _Mapping]]] = ...) -> None: ...

class HeldDataset(_message.Message):
    __slots__ = ("node", "dataset", "contract", "people", "online")
    NODE_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    PEOPLE_FIELD_NUMBER: _ClassVar[int]
    ONLINE_FIELD_NUMBER: _ClassVar[int]
    node: str
    dataset: str
    contract: str
    people: int
    online: bool
    def __init__(self, node: _Optional[str] = ..., dataset: _Optional[str] = ..., contract: _Optional[str] = ..., people: _Optional[int] = ..., online: _Optional[bool] = ...) -> None: ...

class DatasetsReply(_message.Message):
    __slots__ = ("datasets",)
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[HeldDataset]
    def __init__(self, datasets: _Optional[_Iterable[_Union[HeldDataset, _Mapping]]] = ...) -> None: ...
