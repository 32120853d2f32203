-- Flows with a join, the newest first. Message: {limit, after}: an id or "".
local limit, after = message[1], message[2]
local place, found = 0, {}
if after ~= '' then
  local rank = redis.call('ZREVRANK', base .. 'all', after)
  if not rank then
    return found
  end
  place = rank + 1
end
repeat
  local ids = redis.call('ZREVRANGE', base .. 'all', place, place + limit - 1)
  for _, id in ipairs(ids) do
    local flow = read(id)
    if flow[8] ~= '' and #found < limit then
      found[#found + 1] = flow
    end
  end
  place = place + limit
until #ids < limit or #found == limit
return found
