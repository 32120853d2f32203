-- Back to the queue what is still held, as it was. Message: {deliveries, delay in microseconds}:
-- each {entry, consumer, claims, id}. Returns the places, from 0, of those that were not.
local ours, lost = sort_out(message[1])
local delay = message[2]

for _, each in ipairs(ours) do
  local entry, claims = each[1], each[3]
  if delay > 0 then
    local fields = redis.call('XRANGE', stream, entry, entry)[1][2]
    local before = fields[4] + claims - tonumber(redis.call('HGET', released, entry) or 0) - 1
    drop({entry})
    wait(each[4], now + delay, before, fields[6])
  else
    -- Held by nobody: it stays where it is, and every receipt for it is void.
    redis.call('XCLAIM', stream, group, '-', 0, entry, 'JUSTID')
    redis.call('HINCRBY', released, entry, 1)
    redis.call('ZADD', leases, place_of(entry), entry)
  end
end
if #ours > 0 then
  ring()
end
return lost
