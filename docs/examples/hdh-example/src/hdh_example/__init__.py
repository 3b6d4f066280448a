"""An example of extensions of hdh-federation."""

from hdh_example import event_share, event_share_dp
from strategies.registry import Row

EVENT_SHARE = Row(event_share, private=event_share_dp)
