-- Lease again from now on what is still held. Message: {deliveries, lease in microseconds}: each
-- {entry, consumer, claims}. Returns the places, from 0, of those that were not.
local ours, lost = sort_out(message[1])
for _, each in ipairs(ours) do
  redis.call('ZADD', leases, now + message[2], each[1])
end
return lost
