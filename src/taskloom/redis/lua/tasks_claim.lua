-- Lease due tasks. Message: {limit, lease, queue or "" for any, time or 0 for now}.
-- Returns the rows, in the order they are due.
local limit, seconds, queue = message[1], message[2], message[3]
local at = message[4] == 0 and now or message[4]
lapse(at, 1000)
local index = queue == '' and 'moment:scheduled' or 'due:' .. queue
local due = redis.call('ZRANGEBYSCORE', base .. index, '-inf', at, 'LIMIT', 0, limit)
local taken = {}
for place, id in ipairs(due) do
  taken[place] = lease(id, find(id), at, at + seconds)
end
return taken
