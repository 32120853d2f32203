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
for nth, id in ipairs(redis.call('ZREVRANGE', base .. 'all', place, place + limit - 1)) do
  found[nth] = read(id)
end
return found
